"""One more token through a GPT, which on a CPU is as fast as its weights can be read."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Int

from codeformer_jax.nn import GPT, Cache

Step = Callable[[Int[Array, "b"], Cache], tuple[Float[Array, "b k"], Cache]]


def token_step(module: GPT, variables: Any, batch: int) -> Step:
    """`module`'s 'step' as a function of token and cache; call this outside the loop over tokens.

    With a batch of one each product is of a vector and a matrix. XLA's CPU compiler computes it in
    two thirds of the time where the weights of an output lie side by side, so they are turned once.
    """

    def plain(token: Int[Array, "b"], cache: Cache) -> tuple[Float[Array, "b k"], Cache]:
        return module.apply(variables, token, cache, method="step")

    if batch > 1:
        return plain

    def turn(path: tuple, leaf: Array) -> Array:
        return leaf.T.astype(module.dtype) if path[-1].key == "kernel" else leaf

    turned = jax.tree_util.tree_map_with_path(turn, variables)

    def by_outputs(token: Int[Array, "b"], cache: Cache) -> tuple[Float[Array, "b k"], Cache]:
        with nn.intercept_methods(_dense_of_turned):
            return module.apply(turned, token, cache, method="step")

    def step(token: Int[Array, "b"], cache: Cache) -> tuple[Float[Array, "b k"], Cache]:
        return jax.lax.platform_dependent(token, cache, cpu=by_outputs, default=plain)

    return step


def _dense_of_turned(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    """`nn.Dense` whose kernel is [out, in]; other modules as they are."""
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
