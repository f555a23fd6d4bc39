"""Dense layers whose kernels are turned: [out, in], as a processor reads them for one vector."""

import contextlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax.typing import DTypeLike
from jaxtyping import Array


def turn_kernels(variables: Any, dtype: DTypeLike) -> Any:
    """Variables with each kernel [in, out] of a dense layer as [out, in], in the dtype given."""

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
    y = jax.lax.dot_general(x.astype(kernel.dtype), kernel, (((x.ndim - 1,), (1,)), ((), ())))
    if dense.use_bias:
        bias = dense.get_variable("params", "bias").astype(kernel.dtype)
        y = y + bias.reshape((1,) * (y.ndim - 1) + (-1,))
    return y
