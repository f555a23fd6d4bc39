"""Blind degradation of a batch: blur, downsample, noise, JPEG, upsample.

`x -> round8(((x * k_sigma) down r + n_delta)_JPEG_q up r)`, CodeFormer (arXiv 2206.11253).

Layout: [b, s, s, 3] RGB in [0, 1], float32, square. The small image is the top-left corner of a
canvas as large as the image. For large images on a CPU it is the smallest of a few canvases that
holds the small image.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from codeformer_jax.ops.blur import filter2d, gaussian_kernels
from codeformer_jax.ops.fusion import materialized
from codeformer_jax.ops.jpeg import jpeg
from codeformer_jax.ops.resize import resize_bilinear
from codeformer_jax.ops.rounding import Gradient, to_8_bits

KERNEL_SIZE = 41
# Largest side for which one canvas of the image's size costs less than a choice for each image.
_LARGEST_COMMON_CANVAS = 128
# Images that are blurred at the same time: the transform of one image keeps one core busy, and more
# than two images do not fit the cache.
_SIDE_BY_SIDE = 2


def corrupt(
    images: Array,
    parameters: Any,
    source: Array,
    noise: Callable[[Array, int], Array],
    gradient: Gradient,
) -> Array:
    """Returns degraded images, rounded to 8 bits.

    Args:
        images: [b, s, s, 3] in [0, 1].
        parameters: `pipeline.Parameters`, of which sigma_x to jpeg_quality are used.
        source: first argument of `noise`.
        noise: function (source, canvas) -> standard normal deviates [b, canvas, canvas, 3].
        gradient: gradient of the roundings, see `ops.rounding`.
    """
    size = images.shape[1]
    canvases = _canvases(size)

    def blur(images, parameters):
        kernels = gaussian_kernels(
            parameters.sigma_x, parameters.sigma_y, parameters.theta, size=KERNEL_SIZE
        )
        return filter2d(images, kernels, symmetric=True)

    def code(canvas, blurred, parameters, source):
        side = parameters.small_size
        full = jnp.full_like(side, size)
        small = resize_bilinear(blurred, full, full, side, side, canvas=(canvas, canvas))
        deviation = parameters.noise_sigma[:, None, None, None]
        noisy = materialized(jnp.clip(small + noise(source, canvas) * deviation, 0.0, 1.0))
        coded = materialized(jpeg(noisy, parameters.jpeg_quality, side, side, gradient=gradient))
        restored = resize_bilinear(coded, side, side, full, full, canvas=(size, size))
        return to_8_bits(restored, gradient=gradient)

    def together(images, parameters, source):
        return code(size, blur(images, parameters), parameters, source)

    def code_small(blurred, parameters, source):
        fits = jnp.searchsorted(jnp.asarray(canvases), parameters.small_size[0])
        branches = [partial(code, canvas) for canvas in canvases]
        return jax.lax.switch(fits, branches, blurred, parameters, source)

    def side_by_side(examples):
        rows = range(examples[0].shape[0])
        apart = [jax.tree.map(lambda x, row=row: x[row][None], examples) for row in rows]
        blurred = [blur(images, parameters) for images, parameters, _ in apart]
        rest = [(parameters, source) for _, parameters, source in apart]
        return jnp.concatenate([code_small(x, *y) for x, y in zip(blurred, rest, strict=True)])

    def few_at_a_time(*batch):
        count = math.gcd(images.shape[0], _SIDE_BY_SIDE)
        parts = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]), batch)
        return jax.lax.map(side_by_side, parts).reshape(images.shape)

    batch = (images, parameters, source)
    if len(canvases) == 1:
        return together(*batch)
    # A CPU takes half the time for a few large images after the other, which fits its cache.
    return jax.lax.platform_dependent(*batch, cpu=few_at_a_time, default=together)


def _canvases(size: int) -> list[int]:
    """Returns the sides of the canvases for small images, rising to `size`."""
    if size <= _LARGEST_COMMON_CANVAS:
        return [size]
    return [-(-size * eighths // 8) for eighths in (1, 2, 3, 4, 6, 8)]
