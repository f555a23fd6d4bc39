"""Dense layers whose kernels are turned: [out, in], as a processor reads them for a few vectors."""

import contextlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from codeformer_jax.nn.layers import sum_dtype, wide_dot_general

_FEW, _VECTOR = 4, 8


def turn_kernels(variables: Any, dtype: DTypeLike) -> Any:
    """Returns variables whose dense kernels [in, out] are transposed to [out, in].

    Args:
        variables: of a network with dense layers only.
        dtype: of the transposed kernels.
    """

    def turn(path: tuple, leaf: Array) -> Array:
        return leaf.T.astype(dtype) if path[-1].key == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(turn, variables)


def with_turned_kernels() -> contextlib.AbstractContextManager:
    """Within it `nn.Dense` takes the kernels that `turn_kernels` gives."""
    return nn.intercept_methods(_dense)


def _dense(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    dense = context.module
    if not isinstance(dense, nn.Dense) or context.method_name != "__call__":
        return call(*args, **kwargs)
    (x,) = args
    kernel = dense.get_variable("params", "kernel")
    wide = dense.dot_general is wide_dot_general
    dtype = sum_dtype(kernel.dtype) if wide else None
    y = _product(kernel, x.astype(kernel.dtype).reshape(-1, x.shape[-1]), dtype)
    if wide:
        y = y.astype(jnp.float32)
    if dense.use_bias:
        y = y + dense.get_variable("params", "bias").astype(y.dtype)[None]
    return y.reshape(*x.shape[:-1], -1)


def _product(
    kernel: Float[Array, "out in"], x: Float[Array, "rows in"], dtype: DTypeLike | None
) -> Float[Array, "rows out"]:
    """x kernel^T, computed as kernel x^T, in `dtype` or that of the arrays."""
    rows = x.shape[0]
    # Eigen's products are fastest for few columns or whole vectors of them.
    filled = rows if rows <= _FEW else -(-rows // _VECTOR) * _VECTOR
    x = jnp.pad(x, ((0, filled - rows), (0, 0)))
    # Else XLA takes the transposes into the product, which is what is slow.
    x = jax.lax.optimization_barrier(x.T)
    y = jax.lax.optimization_barrier(jnp.matmul(kernel, x, preferred_element_type=dtype))
    return y.T[:rows]
