"""RGB to YCbCr and back as JPEG files (JFIF) define them, with libjpeg's rounding.

Layout: colours on the last axis. Range: integers 0..255 in float32. The weights are libjpeg's
16-bit fixed-point ones. Every product and sum of them with 8-bit values is an integer below 2**24,
so float32 arithmetic is exact and the results equal libjpeg's.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from codeformer_jax.ops.rounding import Gradient, rounded

_ONE = 65536.0
_HALF = 32768.0


def rgb_to_ycbcr(
    rgb: Float[Array, "*shape 3"], *, gradient: Gradient = "zero"
) -> Float[Array, "*shape 3"]:
    """Returns full-range YCbCr, rounded to integers in 0..255; chroma has its zero at 128.

    Source: ITU-T T.871 (JFIF).

    Args:
        rgb: integers in 0..255.
        gradient: gradient of the rounding, see `rounding.rounded`.
    """
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    y = 19595.0 * r + 38470.0 * g + 7471.0 * b + _HALF
    # One below a half, as in libjpeg, keeps pure blue and pure red within 255.
    offset = 128.0 * _ONE + _HALF - 1.0
    cb = _HALF * b - 11059.0 * r - 21709.0 * g + offset
    cr = _HALF * r - 27439.0 * g - 5329.0 * b + offset
    return rounded(jnp.stack([y, cb, cr], axis=-1) / _ONE, jnp.floor, gradient=gradient)


def ycbcr_to_rgb(
    ycbcr: Float[Array, "*shape 3"], *, gradient: Gradient = "zero"
) -> Float[Array, "*shape 3"]:
    """Returns RGB, rounded and clipped to integers in 0..255.

    Args:
        ycbcr: integers in 0..255, full range.
        gradient: gradient of the rounding, see `rounding.rounded`.
    """
    y, cb, cr = ycbcr[..., 0], ycbcr[..., 1] - 128.0, ycbcr[..., 2] - 128.0
    red = 91881.0 * cr + _HALF
    green = _HALF - 22554.0 * cb - 46802.0 * cr
    blue = 116130.0 * cb + _HALF
    shifts = rounded(jnp.stack([red, green, blue], axis=-1) / _ONE, jnp.floor, gradient=gradient)
    return jnp.clip(y[..., None] + shifts, 0.0, 255.0)
