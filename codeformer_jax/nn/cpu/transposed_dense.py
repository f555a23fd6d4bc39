"""Dense layers with transposed kernels [out, in], which CPUs read faster for few vectors."""

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


def transpose_kernels(variables: Any, dtype: DTypeLike) -> Any:
    """Returns variables with the kernels of dense layers as [out, in].

    Args:
        variables: variables whose 'kernel' leaves are [in, out].
        dtype: dtype of the transposed kernels.
    """

    def transpose(path: tuple, leaf: Array) -> Array:
        return leaf.T.astype(dtype) if path[-1].key == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(transpose, variables)


def with_transposed_kernels() -> contextlib.AbstractContextManager:
    """Returns a context in which `nn.Dense` takes the kernels of `transpose_kernels`."""
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
        y = y.astype(dtype)
    if dense.use_bias:
        y = y + dense.get_variable("params", "bias").astype(y.dtype)[None]
    return y.reshape(*x.shape[:-1], -1)


def _product(
    kernel: Float[Array, "out in"], x: Float[Array, "rows in"], dtype: DTypeLike | None
) -> Float[Array, "rows out"]:
    """Returns x kernel^T, computed as (kernel x^T)^T in `dtype` or the arrays' dtype."""
    rows = x.shape[0]
    # Eigen's products are fastest for few columns or multiples of a vector.
    filled = rows if rows <= _FEW else -(-rows // _VECTOR) * _VECTOR
    x = jnp.pad(x, ((0, filled - rows), (0, 0)))
    # Without barriers XLA merges the transposes into the product, which is slow.
    x = jax.lax.optimization_barrier(x.T)
    y = jax.lax.optimization_barrier(jnp.matmul(kernel, x, preferred_element_type=dtype))
    return y.T[:rows]
