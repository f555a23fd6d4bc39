"""JPEG coding and decoding on the device: libjpeg with 4:2:0 chroma.

Layout: [b, h, w, 3] RGB in [0, 1], float32. As in `resize`, an image may be the top-left corner of
a canvas, with traced height and width. The entropy coding is lossless and left out. Colours,
subsampling, padding and chroma interpolation equal libjpeg's to the bit. libjpeg's 32-bit integer
DCT is computed in float32 with the same constants and the same roundings between passes; sums
beyond 2**24 lose their last bits, which rarely moves a pixel by one level.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jaxtyping import Array, Float, Int

from codeformer_jax.ops.color import rgb_to_ycbcr, ycbcr_to_rgb
from codeformer_jax.ops.fusion import materialized
from codeformer_jax.ops.rounding import Gradient, half_away, half_up, rounded

# ITU-T T.81, tables K.1 and K.2.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)
# sqrt(8) times the orthonormal DCT-II [frequency, pixel] in 13-bit fixed point, with the rounding
# of the constants of Loeffler, Ligtenberg and Moschytz's factorisation (ICASSP 1989) in libjpeg.
_DCT = np.array(
    [
        [8192, 8192, 8192, 8192, 8192, 8192, 8192, 8192],
        [11363, 9633, 6437, 2260, -2260, -6437, -9633, -11363],
        [10703, 4433, -4433, -10703, -10703, -4433, 4433, 10703],
        [9633, -2259, -11362, -6436, 6436, 11362, 2259, -9633],
        [8192, -8192, -8192, 8192, 8192, -8192, -8192, 8192],
        [6437, -11362, 2261, 9633, -9633, -2261, 11362, -6437],
        [4433, -10704, 10704, -4433, -4433, 10704, -10704, 4433],
        [2260, -6436, 9633, -11363, 11363, -9633, 6436, -2260],
    ],
    np.float32,
)
_BLOCK = 8
_UNIT = 2 * _BLOCK


def quantization_tables(quality: Int[Array, "b"]) -> Float[Array, "b 2 8 8"]:
    """Returns libjpeg's luma and chroma tables, integers 1..255.

    Args:
        quality: clipped to 1..100.
    """
    quality = jnp.clip(quality.astype(jnp.int32), 1, 100)
    scale = jnp.where(quality < 50, 5000 // quality, 200 - 2 * quality)[:, None, None, None]
    base = np.array([_LUMA, _CHROMA], np.int32)[None]
    return jnp.clip((base * scale + 50) // 100, 1, 255).astype(jnp.float32)


def jpeg(
    images: Float[Array, "b h w 3"],
    quality: Int[Array, "b"],
    height: Int[Array, "b"] | None = None,
    width: Int[Array, "b"] | None = None,
    *,
    gradient: Gradient = "zero",
) -> Float[Array, "b h w 3"]:
    """Returns every image after JPEG coding at its own quality.

    Source: ITU-T T.81 and T.871, with libjpeg's choices.

    Args:
        images: [b, h, w, 3] in [0, 1]; rounded to 8 bits (halves to even) and clipped first.
        quality: 1..100; clipped, as libjpeg does.
        height, width: valid size of each image on its canvas; None is the whole canvas.
        gradient: 'zero', or 'straight_through' to treat every rounding as the identity.

    Returns:
        Multiples of 1/255 in [0, 1]; undefined beyond height and width.
    """
    batch, canvas_height, canvas_width, _ = images.shape
    height = jnp.full((batch,), canvas_height) if height is None else height
    width = jnp.full((batch,), canvas_width) if width is None else width
    levels = jnp.clip(rounded(images * 255.0, gradient=gradient), 0.0, 255.0)
    margins = (-canvas_height % _UNIT, -canvas_width % _UNIT)
    levels = jnp.pad(levels, ((0, 0), (0, margins[0]), (0, margins[1]), (0, 0)))
    levels = materialized(_extend(_extend(levels, height, axis=1), width, axis=2))
    ycbcr = jnp.moveaxis(rgb_to_ycbcr(levels, gradient=gradient), 3, 1)
    tables = quantization_tables(quality)
    luma = _code_blocks(ycbcr[:, :1], tables[:, :1], gradient)
    chroma_height, chroma_width = (height + 1) // 2, (width + 1) // 2
    # libjpeg pads columns before subsampling but rows after it: each chroma row is the mean of two
    # valid rows, or of the last one twice.
    chroma = _extend(_subsample(ycbcr[:, 1:], gradient), chroma_height, axis=2)
    chroma = _code_blocks(chroma, tables[:, 1:], gradient)
    chroma = _extend(_extend(chroma, chroma_height, axis=2), chroma_width, axis=3)
    chroma = _upsample(chroma, chroma_width, gradient)
    decoded = jnp.moveaxis(jnp.concatenate([luma, chroma], axis=1), 1, 3)
    rgb = ycbcr_to_rgb(decoded[:, :canvas_height, :canvas_width], gradient=gradient)
    return rgb / 255.0


def _extend(x: Array, valid: Array, axis: int) -> Array:
    """Repeats entry `valid - 1` along `axis` over all entries that follow it."""
    last = (valid - 1).astype(jnp.int32)[:, None]
    index = jnp.minimum(jnp.arange(x.shape[axis], dtype=jnp.int32)[None], last)
    # A choice between x and its last entry would make XLA compute x twice.
    shape = [1] * x.ndim
    shape[0], shape[axis] = index.shape
    return jnp.take_along_axis(x, index.reshape(shape), axis=axis, mode="clip")


def _rows(planes: Array, matrix: np.ndarray) -> Array:
    """Returns `block @ matrix.T` for every 8x8 block of planes [..., h, w]."""
    blocks = planes.reshape(*planes.shape[:-1], -1, _BLOCK)
    blocks = jnp.einsum("...j,vj->...v", blocks, matrix, precision=Precision.HIGHEST)
    return blocks.reshape(planes.shape)


def _columns(planes: Array, matrix: np.ndarray) -> Array:
    """Returns `matrix @ block` for every 8x8 block of planes [..., h, w]."""
    *outer, height, width = planes.shape
    blocks = planes.reshape(*outer, height // _BLOCK, _BLOCK, width)
    blocks = jnp.einsum("ui,...iw->...uw", matrix, blocks, precision=Precision.HIGHEST)
    return blocks.reshape(planes.shape)


def _code_blocks(planes: Array, table: Array, gradient: Gradient) -> Array:
    """Quantizes planes [b, c, h, w] of 0..255 in the DCT domain with tables [b, 1, 8, 8].

    Each of the four passes rounds as libjpeg does (2 extra bits between passes, coefficients in
    eighths). Many coefficients then lie exactly between two steps and must be rounded the same way.
    """

    def shifted(x: Array, bits: int) -> Array:
        return rounded(x / 2.0**bits, half_up, gradient=gradient)

    eighths = shifted(_columns(shifted(_rows(planes - 128.0, _DCT), 11), _DCT), 15)
    steps = jnp.tile(table, (1, 1, planes.shape[2] // _BLOCK, planes.shape[3] // _BLOCK))
    quantized = rounded(eighths / (8.0 * steps), half_away, gradient=gradient) * steps
    pixels = shifted(_rows(shifted(_columns(quantized, _DCT.T), 11), _DCT.T), 18)
    return jnp.clip(pixels + 128.0, 0.0, 255.0)


def _subsample(planes: Array, gradient: Gradient) -> Array:
    """Returns means of 2x2 pixels, rounded down and up alternately along a row to avoid drift."""
    batch, channels, height, width = planes.shape
    sums = planes.reshape(batch, channels, height // 2, 2, width // 2, 2).sum(axis=(3, 5))
    bias = 1.0 + jnp.arange(width // 2, dtype=jnp.float32) % 2.0
    return rounded((sums + bias[None, None, None]) / 4.0, jnp.floor, gradient=gradient)


def _upsample(planes: Array, width: Array, gradient: Gradient) -> Array:
    """Doubles planes by libjpeg's triangle filter: 3/4 of the nearer and 1/4 of the farther sample.

    `planes` [b, c, h, w] repeat their edges beyond the valid `width`. If that is at most 2, libjpeg
    repeats samples instead.
    """
    batch, channels, height, columns = planes.shape
    smooth = (width > 2)[:, None, None, None]

    def neighbours(x, axis):
        first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
        last = jax.lax.slice_in_dim(x, x.shape[axis] - 1, None, axis=axis)
        before = jax.lax.slice_in_dim(x, 0, x.shape[axis] - 1, axis=axis)
        after = jax.lax.slice_in_dim(x, 1, None, axis=axis)
        previous = jnp.concatenate([first, before], axis=axis)
        following = jnp.concatenate([after, last], axis=axis)
        return jnp.where(smooth, previous, x), jnp.where(smooth, following, x)

    above, below = neighbours(planes, 2)
    x = jnp.stack([3.0 * planes + above, 3.0 * planes + below], axis=3)
    x = x.reshape(batch, channels, 2 * height, columns)
    left, right = neighbours(x, 3)
    x = jnp.stack([3.0 * x + left + 8.0, 3.0 * x + right + 7.0], axis=4)
    x = x.reshape(batch, channels, 2 * height, 2 * columns)
    return rounded(x / 16.0, jnp.floor, gradient=gradient)
