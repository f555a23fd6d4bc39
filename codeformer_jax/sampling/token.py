"""One more token through a GPT, which on a CPU is as fast as its weights can be read."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float, Int

from codeformer_jax.nn import GPT, Cache, turn_kernels, with_turned_kernels

Step = Callable[[Int[Array, "b"], Cache], tuple[Float[Array, "b k"], Cache]]


def token_step(module: GPT, variables: Any) -> Step:
    """`module`'s 'step' as a function of token and cache; call this outside the loop over tokens.

    A step's products are of a few vectors and a matrix. XLA's CPU compiler computes them in two
    thirds of the time where the weights of an output lie side by side, so they are turned once.
    """

    def plain(token: Int[Array, "b"], cache: Cache) -> tuple[Float[Array, "b k"], Cache]:
        return module.apply(variables, token, cache, method="step")

    turned = turn_kernels(variables, module.dtype)

    def by_outputs(token: Int[Array, "b"], cache: Cache) -> tuple[Float[Array, "b k"], Cache]:
        with with_turned_kernels():
            return module.apply(turned, token, cache, method="step")

    def step(token: Int[Array, "b"], cache: Cache) -> tuple[Float[Array, "b k"], Cache]:
        return jax.lax.platform_dependent(token, cache, cpu=by_outputs, default=plain)

    return step
