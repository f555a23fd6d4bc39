"""OpenCV's resizing to sizes that are known only at run time: bilinear, area or bicubic.

Layout: [b, h, w, c], any value range, float32. An image of traced size lies in the top-left corner
of a *canvas* of static size. Its `height` and `width` are traced integers, one per image; the rest
of the canvas is ignored. Pixel centres are at half-integers and coordinates are clamped at the
borders. `resize_bilinear` equals cv2.resize with INTER_LINEAR and does not antialias.

`resample` takes square images and chooses the filter at run time. The filters equal cv2.resize with
INTER_AREA (shrinking), INTER_LINEAR and INTER_CUBIC; only `AREA` antialiases.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float, Int

Method = Literal["auto", "matmul", "gather"]

# On two CPU cores, 16 images of 64 px take 1.2 ms by matrices and 2.8 ms by gathers. At 128 px both
# take the same time; at 512 px matrices take six times as long.
_LARGEST_SIDE_BY_MATMUL = 96

# Filters of `resample`.
AREA, BILINEAR, BICUBIC = range(3)
# Parameter of the cubic convolution, as in PyTorch and OpenCV.
_CUBIC = -0.75


def resize_bilinear(
    images: Float[Array, "b h w c"],
    source_height: Int[Array, "b"],
    source_width: Int[Array, "b"],
    target_height: Int[Array, "b"],
    target_width: Int[Array, "b"],
    *,
    canvas: tuple[int, int] | None = None,
    method: Method = "auto",
) -> Float[Array, "b out_h out_w c"]:
    """Resizes the valid corner of every canvas to its own target size.

    Args:
        images: canvases; image i is `[i, :source_height[i], :source_width[i]]`.
        source_height, source_width: 1 to h and w.
        target_height, target_width: 1 to the sides of the output canvas.
        canvas: static (height, width) of the output; None is the input's.
        method: 'matmul' (two products with hat-function weights, fastest up to about 96 px on a
            CPU), 'gather' or 'auto'.

    Returns:
        Canvases with the resized images in the corner; edge pixels are repeated beyond it.

    Raises:
        ValueError: for an unknown method or an empty canvas.
    """
    canvas = images.shape[1:3] if canvas is None else canvas
    if len(canvas) != 2 or min(canvas) < 1:
        raise ValueError(f"canvas is {canvas}: expected (height, width) of at least one pixel.")
    if method not in get_args(Method):
        raise ValueError(f"method is {method!r}: expected one of {get_args(Method)}.")
    rows = jax.vmap(lambda s, t: _positions(s, t, canvas[0]))(source_height, target_height)
    columns = jax.vmap(lambda s, t: _positions(s, t, canvas[1]))(source_width, target_width)
    small = max(*images.shape[1:3], *canvas) <= _LARGEST_SIDE_BY_MATMUL
    if method == "matmul" or (method == "auto" and small):
        down = jax.vmap(lambda i, f: _hat(i, f, images.shape[1]))(*rows)
        across = jax.vmap(lambda i, f: _hat(i, f, images.shape[2]))(*columns)
        pattern = "byi,bijc,bxj->byxc"
        return jnp.einsum(pattern, down, images, across, precision=Precision.HIGHEST)
    return jax.vmap(_interpolate)(images, rows, columns)


def _positions(source: Array, target: Array, length: int) -> tuple[Array, Array]:
    """Returns the index of the pixel before each output centre, and the distance past its centre.

    Integers are exact: (i + 0.5) * source / target - 0.5 in float32 would be off by up to 3e-5
    pixels at 512 px, and could step to the wrong pixel.
    """
    source, target = source.astype(jnp.int32), target.astype(jnp.int32)
    # Outputs beyond the target repeat its last pixel.
    output = jnp.minimum(jnp.arange(length, dtype=jnp.int32), target - 1)
    numerator = jnp.clip((2 * output + 1) * source - target, 0, 2 * target * (source - 1))
    index = numerator // (2 * target)
    remainder = numerator - index * 2 * target
    return index, remainder.astype(jnp.float32) / (2 * target).astype(jnp.float32)


def _hat(index: Array, fraction: Array, length: int) -> Array:
    """Returns rows [output, input] with 1 - fraction at `index` and fraction after it."""
    pixel = jnp.arange(length, dtype=jnp.int32)[None, :]
    before = jnp.where(pixel == index[:, None], 1.0 - fraction[:, None], 0.0)
    return before + jnp.where(pixel == index[:, None] + 1, fraction[:, None], 0.0)


def _interpolate(image: Array, rows: tuple[Array, Array], columns: tuple[Array, Array]) -> Array:
    """Gathers whole rows; columns are resized on the smaller image, before or after that."""
    if columns[0].size > image.shape[1]:
        # Gathers of single pixels cost four times as much as a matrix, and XLA would recompute the
        # image's whole expression for each of them.
        weights = _hat(*columns, image.shape[1])
        image = jnp.einsum("xj,yjc->yxc", weights, image, precision=Precision.HIGHEST)
        return _interpolate_axis(image, *rows, axis=0)
    return _interpolate_axis(_interpolate_axis(image, *rows, axis=0), *columns, axis=1)


def _interpolate_axis(image: Array, index: Array, fraction: Array, axis: int) -> Array:
    shape = [1, 1, 1]
    shape[axis] = fraction.size
    fraction = fraction.reshape(shape)
    following = jnp.minimum(index + 1, image.shape[axis] - 1)
    before, after = (jnp.take(image, i, axis=axis, mode="clip") for i in (index, following))
    return before * (1.0 - fraction) + after * fraction


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
