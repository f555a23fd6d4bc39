"""Rounding with a choice of gradient.

Layout: any shape, elementwise. Range: any; float32.
"""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Gradient = Literal["zero", "straight_through"]


def half_up(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns the nearest integer, halves towards plus infinity, like libjpeg's biased shifts."""
    return jnp.floor(x + 0.5)


def half_away(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns the nearest integer, halves away from zero, as libjpeg quantizes coefficients."""
    return jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5)


def rounded(
    x: Float[Array, "..."],
    function: Callable[[jax.Array], jax.Array] = jnp.round,
    *,
    gradient: Gradient = "zero",
) -> Float[Array, "..."]:
    """Returns `function(x)` with gradient 0, or the gradient of x.

    Args:
        x: values.
        function: rounding that moves x by at most 1, so that both gradients give the same values.
        gradient: 'zero', or 'straight_through' (Bengio et al., arXiv 1308.3432).

    Raises:
        ValueError: for another `gradient`.
    """
    if gradient not in get_args(Gradient):
        raise ValueError(f"gradient is {gradient!r}: expected one of {get_args(Gradient)}.")
    value = jax.lax.stop_gradient(function(x))
    return value if gradient == "zero" else x + jax.lax.stop_gradient(value - x)


def to_8_bits(images: Float[Array, "..."], *, gradient: Gradient = "zero") -> Float[Array, "..."]:
    """Rounds images to the nearest multiple of 1/255 (halves to even), clipped to [0, 1].

    Args:
        images: values around [0, 1].
        gradient: see `rounded`.
    """
    return jnp.clip(rounded(images * 255.0, gradient=gradient), 0.0, 255.0) / 255.0
