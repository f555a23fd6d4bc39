"""Squares cut from a picture, and the resampling that cutting and pasting share.

Coordinates and transforms are those of `codeformer_jax.faces.face`, pictures those of `pixels`.

Resampling to a coarser grid first averages blocks of whole pixels, then filters by Lanczos' kernel
of the coarser grid, so that nothing aliases. A source with less than two pixels per pixel of the
result is then doubled by six-point interpolation, so that the bilinear warp that follows stays
sharp. OpenCV 5 warps bilinearly without rounding positions; its bicubic and Lanczos warps round
them to 1/32 px.
"""

import cv2
import numpy as np
from jaxtyping import Float, Float32

from codeformer_jax.faces.face import Transform, apply, invert, scale_of
from codeformer_jax.faces.pixels import Pixels, to_dtype

Rectangle = tuple[slice, slice]

# Half width of Lanczos' kernel, in pixels of the coarser grid.
_LOBES = 3
# Source pixels per result pixel that block averaging leaves at least and doubling provides.
_FINER = 2
# Lagrange's interpolation a quarter of a pixel after the third of six pixels: exact for polynomials
# of the fifth degree.
_QUARTER = np.array([77, -693, 6930, 2310, -495, 63]) / 8192
# Reach of the interpolation in source pixels, and of Lanczos' kernel in result pixels.
REACH, COARSE_REACH = 4, 3


def cut(picture: Pixels, transform: Transform, size: int) -> Pixels:
    """Cuts a square out of a picture, area-correct.

    Only the pixels around the square are read. Beyond its edges the picture is reflected.

    Args:
        picture: pixels.
        transform: similarity from the picture to the square (`to_size(face.transform, size)`).
        size: side of the square in pixels.

    Returns:
        The square, [size, size] or [size, size, c], in the picture's dtype.
    """
    rows, columns = source_region(transform, size, picture.shape)
    return cut_region(picture[rows, columns], shifted(transform, columns.start, rows.start), size)


def cut_region(pixels: Pixels, transform: Transform, size: int) -> Pixels:
    """Cuts a square as `cut`, given the pixels of its `source_region`."""
    dtype = pixels.dtype
    pixels, transform = prepare(pixels, transform, cv2.BORDER_REFLECT)
    return to_dtype(warp(pixels, transform, (size, size), cv2.BORDER_REFLECT), dtype)


def prepare(
    pixels: Pixels, transform: Transform, border: int
) -> tuple[Float32[np.ndarray, "_ _ ..."], Transform]:
    """Brings the source of a warp to a resolution at which `warp` neither aliases nor blurs.

    Args:
        pixels: the source.
        transform: from the source to the result of the warp.
        border: what lies beyond the source, a border type of OpenCV.

    Returns:
        The prepared source, in the units of `pixels`, and the transform from it to the result.
    """
    # A source that is smaller than a pixel of the result is averaged as if it filled the pixel.
    reduction = min(1 / scale_of(transform), max(pixels.shape[:2]))
    factor = max(1, min(int(reduction / _FINER), *pixels.shape[:2]))
    if factor > 1:
        pixels = _shrink(pixels, factor, border)
        transform = scaled(transform, 1 / factor)
    pixels = pixels.astype(np.float32)
    if reduction > 1:
        kernel = _lanczos(reduction / factor)
        pixels = cv2.sepFilter2D(pixels, -1, kernel, kernel, borderType=border)
    if reduction < _FINER:
        pixels, transform = _double(pixels, border), scaled(transform, 2)
    return pixels, transform


def warp(
    pixels: Float32[np.ndarray, "_ _ ..."],
    transform: Transform,
    shape: tuple[int, int],
    border: int,
) -> Float32[np.ndarray, "_ _ ..."]:
    """Interpolates a prepared source bilinearly.

    Args:
        pixels, transform: of `prepare`.
        shape: height and width of the result.
        border: what lies beyond the source, a border type of OpenCV.

    Returns:
        The result.
    """
    return cv2.warpAffine(pixels, transform, shape[::-1], borderMode=border)


def scaled(transform: Transform, factor: float | int) -> Transform:
    """Returns the transform for a picture that was enlarged `factor` times.

    The edges of both pictures coincide, so that x becomes factor * (x + 0.5) - 0.5.
    """
    linear = transform[:, :2] / factor
    offset = transform[:, 2] + (1 - factor) / 2 * linear.sum(1)
    return np.column_stack([linear, offset])


def shifted(transform: Transform, x: int, y: int) -> Transform:
    """Returns the transform for the part of the picture that begins at (x, y)."""
    offset = transform[:, 2] + transform[:, :2] @ np.array([x, y], np.float64)
    return np.column_stack([transform[:, :2], offset])


def box_region(
    transform: Transform, box: tuple[float, float, float, float], shape: tuple[int, ...]
) -> Rectangle:
    """Returns the rows and columns of a picture that bound a box of the square.

    Args:
        transform: from the picture to the square.
        box: left, top, right and bottom edge in the square.
        shape: the picture's shape.

    Returns:
        Slices within the picture; empty where the box lies outside.
    """
    low, high = _bounds(transform, box)
    spans = zip(np.ceil(low), np.floor(high) + 1, shape[1::-1], strict=True)
    columns, rows = (
        slice(*np.clip((start, stop), 0, length).astype(int).tolist())
        for start, stop, length in spans
    )
    return rows, columns


def source_region(transform: Transform, size: int, shape: tuple[int, ...]) -> Rectangle:
    """Returns the rows and columns that `cut` reads.

    Args:
        transform: from the picture to the square.
        size: side of the square in pixels.
        shape: the picture's shape.

    Returns:
        Slices within the picture, at least one pixel.
    """
    low, high = _bounds(transform, (-0.5, -0.5, size - 0.5, size - 0.5))
    margin = REACH + COARSE_REACH / scale_of(transform)
    spans = zip(np.floor(low - margin), np.ceil(high + margin) + 1, shape[1::-1], strict=True)
    columns, rows = (_with_reflected(int(start), int(stop), n) for start, stop, n in spans)
    return rows, columns


def _with_reflected(start: int, stop: int, length: int) -> slice:
    """Returns the pixels of a row that [start, stop) reads where the row's ends are mirrors.

    A span farther outside than its own length returns that many pixels at the nearer end.
    """
    span = stop - start
    first = min(start, max(2 * length - stop, length - span)) if stop > length else start
    last = max(stop, min(-start, span)) if start < 0 else stop
    return slice(min(max(first, 0), length - 1), max(min(last, length), 1))


def _bounds(
    transform: Transform, box: tuple[float, float, float, float]
) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"]]:
    """Returns the lowest and the highest (x, y) in the picture of a box of the square."""
    left, top, right, bottom = box
    corners = np.array([(left, top), (right, top), (left, bottom), (right, bottom)], np.float64)
    corners = apply(invert(transform), corners)
    return corners.min(0), corners.max(0)


def _shrink(pixels: Pixels, factor: int, border: int) -> Pixels:
    """Averages blocks of factor x factor pixels; blocks at the end reach over the border."""
    height, width = pixels.shape[:2]
    below, beyond = -height % factor, -width % factor
    if below or beyond:
        pixels = cv2.copyMakeBorder(pixels, 0, below, 0, beyond, border)
    size = (pixels.shape[1] // factor, pixels.shape[0] // factor)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _lanczos(reduction: float) -> Float[np.ndarray, "_"]:
    """Returns the low-pass kernel for a grid that is `reduction` times as coarse, 1 or more."""
    reach = int(_LOBES * reduction)
    steps = np.arange(-reach, reach + 1) / reduction
    kernel = np.sinc(steps) * np.sinc(steps / _LOBES)
    return kernel / kernel.sum()


def _double(pixels: Float32[np.ndarray, "_ _ ..."], border: int) -> Float32[np.ndarray, "_ _ ..."]:
    """Doubles the resolution; edges stay where they are."""
    height, width = pixels.shape[:2]
    doubled = np.empty((2 * height, 2 * width, *pixels.shape[2:]), np.float32)
    # Pixels of the result lie a quarter of a pixel before and after those of the source.
    kernels = ((_QUARTER[::-1].copy(), 3), (_QUARTER, 2))
    for row, (down, middle) in enumerate(kernels):
        for column, (across, centre) in enumerate(kernels):
            anchor = (centre, middle)
            part = cv2.sepFilter2D(pixels, -1, across, down, anchor=anchor, borderType=border)
            doubled[row::2, column::2] = part
    return doubled
