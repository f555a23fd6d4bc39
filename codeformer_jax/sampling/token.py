"""One more token through a GPT, which on a CPU is bound by reading its weights."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float, Int

from codeformer_jax.nn import GPT, Cache, transpose_kernels, with_transposed_kernels

Step = Callable[[Int[Array, "b"], Cache], tuple[Float[Array, "b k"], Cache]]


def token_step(module: GPT, variables: Any) -> Step:
    """`module`'s 'step' as a function of token and cache; call this outside the loop over tokens.

    A step's products are of a few vectors and a matrix. XLA's CPU compiler computes them in 0.6 to
    0.9 of the time where the weights of an output lie side by side, so they are turned once; while
    maps are drawn, these are a second copy of the parameters.
    """

    def plain(token: Int[Array, "b"], cache: Cache) -> tuple[Float[Array, "b k"], Cache]:
        return module.apply(variables, token, cache, method="step")

    transposed = transpose_kernels(variables, module.dtype)

    def by_outputs(token: Int[Array, "b"], cache: Cache) -> tuple[Float[Array, "b k"], Cache]:
        with with_transposed_kernels():
            return module.apply(transposed, token, cache, method="step")

    def step(token: Int[Array, "b"], cache: Cache) -> tuple[Float[Array, "b k"], Cache]:
        return jax.lax.platform_dependent(token, cache, cpu=by_outputs, default=plain)

    return step
