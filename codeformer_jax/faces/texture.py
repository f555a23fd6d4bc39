"""Colour and grain of restored faces: those of the picture around them."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32

from codeformer_jax.faces.align import Rectangle
from codeformer_jax.faces.paste import Patch, extent, mask_in, tiles
from codeformer_jax.faces.pixels import Pixels, in_levels, to_dtype

# Deviation of the Gaussian that averages colour differences, in sides of the crop, and the side of
# the grid that it works on.
_COLOR_BLUR, _COLOR_GRID = 1 / 8, 64
# Brightness and two colour differences, orthonormal, in RGB. Noise of cameras and of JPEG is
# stronger in the first.
_AXES = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]] / np.sqrt([[3], [2], [6]]), np.float32)
# Immerkaer, "Fast Noise Variance Estimation" (1996): blind to constant, linear and one-dimensional
# structure; white noise passes with unchanged deviation.
_NOISE_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
# Residuals beyond so many deviations are edges. A normal distribution that is cut there has
# _CLIPPED of its deviation.
_CLIP, _CLIPPED, _CLIP_ROUNDS = 3.0, 0.98658, 10
# Largest side of the part in the middle of a face that noise is measured in.
_MEASURED = 1024


def match_color(restored: Pixels, crop: Pixels, mask: Float32[np.ndarray, "s s"]) -> Pixels:
    """Removes the network's shift of colour and brightness from a restored crop.

    The difference of both crops is averaged over about an eighth of the side, where the mask shows
    the face, and subtracted.

    Args:
        restored: the network's result, [s, s] or [s, s, 3].
        crop: what it was made from, of the same shape, in any dtype.
        mask: the mask that it will be pasted with.

    Returns:
        The corrected result, in the dtype of `restored`.
    """
    size = mask.shape[0]
    grid = min(size, _COLOR_GRID)
    # The crop's own colours keep the average defined where the mask is zero.
    weight = mask + np.float32(1e-4)
    shape = (size, size, *[1] * (restored.ndim - 2))
    shift = in_levels(restored, restored.dtype) - in_levels(crop, restored.dtype)
    sums = [
        cv2.GaussianBlur(
            cv2.resize(array, (grid, grid), interpolation=cv2.INTER_AREA),
            (0, 0),
            grid * _COLOR_BLUR,
        )
        for array in (shift * weight.reshape(shape), weight)
    ]
    average = sums[0] / sums[1].reshape(grid, grid, *shape[2:])
    average = cv2.resize(average, (size, size), interpolation=cv2.INTER_LINEAR)
    return to_dtype(in_levels(restored, restored.dtype) - average, restored.dtype)


def noise_level(
    pixels: Pixels, where: Bool[np.ndarray, "_ _"] | None = None
) -> Float[np.ndarray, "_"]:
    """Returns the standard deviation of a picture's noise at the scale of its pixels.

    Args:
        pixels: [h, w] or [h, w, 3].
        where: the pixels to measure; all by default.

    Returns:
        Deviations in the picture's units: [1] for gray, [3] along brightness and two colour
        differences for RGB. Zero where fewer than 64 pixels are left.
    """
    planes = pixels.astype(np.float32)
    planes = planes[..., None] if planes.ndim == 2 else planes @ _AXES.T
    inside = (slice(1, -1), slice(1, -1))
    where = np.ones(pixels.shape[:2], bool) if where is None else where
    if min(pixels.shape[:2]) < 3 or np.count_nonzero(where[inside]) < 64:
        return np.zeros(planes.shape[-1])
    residuals = [
        cv2.filter2D(np.ascontiguousarray(planes[..., axis]), -1, _NOISE_KERNEL)
        for axis in range(planes.shape[-1])
    ]
    return np.array([_clipped_deviation(plane[inside][where[inside]]) for plane in residuals])


def _clipped_deviation(residuals: Float32[np.ndarray, "_"]) -> float:
    residuals = np.abs(residuals)
    deviation = float(residuals.mean()) * np.sqrt(np.pi / 2)
    for _ in range(_CLIP_ROUNDS):
        kept = residuals[residuals <= _CLIP * deviation]
        deviation = float(np.sqrt(np.mean(np.square(kept)))) / _CLIPPED
    return deviation


def grain_of(picture: Pixels, patch: Patch) -> Float[np.ndarray, "_"]:
    """Returns the noise level of a picture where a patch lies, or will lie.

    Args:
        picture: pixels.
        patch: only its transform and mask are read.

    Returns:
        Noise level in the form that `noise_level` returns.
    """
    middle = tuple(
        slice(max(side.start, centre - _MEASURED // 2), min(side.stop, centre + _MEASURED // 2))
        for side in extent(patch, picture.shape)
        for centre in [(side.start + side.stop) // 2]
    )
    if any(side.stop <= side.start for side in middle):
        return np.zeros(1 if picture.ndim == 2 else 3)
    return noise_level(picture[middle], mask_in(patch, middle) > 0.5)


def add_grain(
    picture: Pixels, patch: Patch, target_noise: Float[np.ndarray, "_"], seed: int = 0
) -> None:
    """Adds noise to a pasted face, in place, until it is as grainy as `target_noise`.

    Noise that the face already has, such as detail that `paste` kept, is measured and counts.

    Args:
        picture: a picture that `patch` was pasted into.
        patch: the patch.
        target_noise: `grain_of` the picture before.
        seed: 0 or more; equal seeds give equal noise.
    """
    missing = np.sqrt(np.maximum(np.square(target_noise) - np.square(grain_of(picture, patch)), 0))
    missing = missing.astype(np.float32)
    if not missing.any():
        return
    for tile in tiles(extent(patch, picture.shape)):
        amount = mask_in(patch, tile)
        if amount.any():
            picture[tile] = _noisy(picture[tile], amount, missing, _random(seed, tile))


def _noisy(
    pixels: Pixels,
    amount: Float32[np.ndarray, "h w"],
    deviations: Float32[np.ndarray, "_"],
    random: np.random.Generator,
) -> Pixels:
    noise = random.standard_normal((*amount.shape, deviations.size), np.float32)
    noise *= deviations
    noise = noise[..., 0] if pixels.ndim == 2 else noise @ _AXES
    noise *= amount if pixels.ndim == 2 else amount[..., None]
    noise += pixels
    return to_dtype(noise, pixels.dtype)


def _random(seed: int, tile: Rectangle) -> np.random.Generator:
    return np.random.default_rng((seed, tile[0].start, tile[1].start))
