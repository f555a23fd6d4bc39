"""Resizing by a filter that is chosen at run time: area, bilinear or bicubic.

Layout: [b, h, h, c] square, any value range, float32. As in `resize`, an image is the top-left
corner of a canvas of static size and its side is a traced integer, one per image. Only `AREA`
antialiases. The filters equal cv2.resize with INTER_AREA (shrinking), INTER_LINEAR and INTER_CUBIC.
"""

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float, Int

AREA, BILINEAR, BICUBIC = range(3)

# Parameter of the cubic convolution, as in PyTorch and OpenCV.
_CUBIC = -0.75


def resample(
    images: Float[Array, "b h h c"],
    source: Int[Array, "b"],
    target: Int[Array, "b"],
    mode: Int[Array, "b"],
    *,
    canvas: int,
) -> Float[Array, "b {canvas} {canvas} c"]:
    """Resizes the `source` corner of every canvas to its own `target` side by its own filter.

    All three filters share two matrix products. `AREA` is the mean over the pixel's footprint, also
    where that is smaller than a pixel. Edge pixels are repeated beyond the target.

    Args:
        images: canvases [b, h, h, c].
        source: sides of the images, 1 to h.
        target: sides of the results, 1 to `canvas`.
        mode: AREA, BILINEAR or BICUBIC for each image.
        canvas: static side of the output canvas.
    """
    side = images.shape[1]
    weights = jax.vmap(lambda s, t, m: _weights(s, t, m, canvas, side))(source, target, mode)
    pattern = "byi,bijc,bxj->byxc"
    return jnp.einsum(pattern, weights, images, weights, precision=Precision.HIGHEST)


def _weights(source: Array, target: Array, mode: Array, outputs: int, inputs: int) -> Array:
    """Returns [output, input] weights; rows sum to 1 and positions are exact, in 1 / (2 target)."""
    source, target = source.astype(jnp.int32), target.astype(jnp.int32)
    output = jnp.minimum(jnp.arange(outputs, dtype=jnp.int32), target - 1)[:, None]
    pixel = jnp.arange(inputs, dtype=jnp.int32)[None, :]
    overlap = jnp.minimum((output + 1) * source, (pixel + 1) * target)
    overlap = overlap - jnp.maximum(output * source, pixel * target)
    area = jnp.maximum(overlap, 0).astype(jnp.float32) / source.astype(jnp.float32)
    numerator = (2 * output + 1) * source - target
    index = numerator // (2 * target)
    past = (numerator - 2 * target * index).astype(jnp.float32) / (2 * target).astype(jnp.float32)
    taps = jnp.zeros((outputs, inputs), jnp.float32)
    for offset in range(-1, 3):
        distance = jnp.abs(past - offset)
        weight = jnp.where(mode == BICUBIC, _cubic(distance), jnp.maximum(1.0 - distance, 0.0))
        # The edge pixel is repeated beyond the border, as in OpenCV and PyTorch.
        place = jnp.clip(index + offset, 0, source - 1)
        taps = taps + jnp.where(pixel == place, weight, 0.0)
    return jnp.where(mode == AREA, area, taps)


def _cubic(distance: Array) -> Array:
    """Returns Keys' cubic convolution kernel (1981) at distances up to 2."""
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * _CUBIC - 4 * _CUBIC
    return jnp.where(distance <= 1, near, far)
