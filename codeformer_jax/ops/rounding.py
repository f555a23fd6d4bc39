"""Rounding with a choice of gradient.

Layout: any shape, elementwise. Range: any; values are kept in float32.
"""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Gradient = Literal["zero", "straight_through"]


def half_up(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Nearest integer, halves towards plus infinity, as libjpeg's shifts with a bias do."""
    return jnp.floor(x + 0.5)


def half_away(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Nearest integer, halves away from zero, as libjpeg quantizes coefficients."""
    return jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5)


def rounded(
    x: Float[Array, "..."],
    function: Callable[[jax.Array], jax.Array] = jnp.round,
    *,
    gradient: Gradient = "zero",
) -> Float[Array, "..."]:
    """`function(x)`, whose derivative is 0 ('zero') or taken to be 1 ('straight_through').

    `function` moves x by at most 1, so that both forms give the same values bit for bit.
    Raises ValueError for another `gradient`. Straight-through: Bengio et al., arXiv 1308.3432.
    """
    if gradient not in get_args(Gradient):
        raise ValueError(f"gradient is {gradient!r}: expected one of {get_args(Gradient)}.")
    value = jax.lax.stop_gradient(function(x))
    return value if gradient == "zero" else x + jax.lax.stop_gradient(value - x)


def to_8_bits(images: Float[Array, "..."], *, gradient: Gradient = "zero") -> Float[Array, "..."]:
    """Images in [0, 1] to the nearest multiple of 1/255, clipped to [0, 1]; halves to even."""
    return jnp.clip(rounded(images * 255.0, gradient=gradient), 0.0, 255.0) / 255.0
