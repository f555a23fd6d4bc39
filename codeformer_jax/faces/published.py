"""The published helper's alignment and pasting, faults included, for comparisons.

Faces are pasted about half a pixel off into an enlarged picture (`_inverse`), crops of large faces
alias, and a face that overlaps another one replaces part of it. `align` and `paste` avoid these.
The results equal the published ones; unlike there, masks are made only around each face.
"""

import collections.abc

import cv2
import numpy as np
from jaxtyping import Float32, Integer, UInt8

from codeformer_jax.faces.align import Rectangle
from codeformer_jax.faces.face import TEMPLATE_SIZE, Transform, apply, invert
from codeformer_jax.faces.masks import parsing_mask
from codeformer_jax.faces.pixels import Pixels, in_levels

# What lies outside the picture, RGB.
_OUTSIDE = (132, 133, 135)
_LUMA = np.array([0.2989, 0.587, 0.114], np.float32)
# Pixels of the enlarged picture, per unit of its factor, that are eroded from the warped square.
_FIRST_EROSION = 2
# Side of the warped square divided by the half width of its soft border.
_SIDES_PER_BORDER = 20


def cut_published(
    picture: UInt8[np.ndarray, "h w 3"], transform: Transform
) -> UInt8[np.ndarray, "512 512 3"]:
    """Cuts the template's square by a bilinear warp, constant outside the picture.

    Args:
        picture: RGB pixels.
        transform: from the picture to the square.
    """
    size = (TEMPLATE_SIZE, TEMPLATE_SIZE)
    return cv2.warpAffine(
        picture, transform, size, borderMode=cv2.BORDER_CONSTANT, borderValue=_OUTSIDE
    )


def paste_published(
    picture: Pixels,
    transforms: collections.abc.Sequence[Transform],
    restored: collections.abc.Sequence[Pixels],
    factor: int = 1,
    labels: collections.abc.Sequence[Integer[np.ndarray, "512 512"]] | None = None,
) -> Pixels:
    """Enlarges a picture bilinearly and pastes restored faces into it.

    Args:
        picture: pixels, [h, w] or [h, w, 3].
        transforms: of the faces, from the picture to the template's square.
        restored: the faces, 512 px, with the picture's channels, in any dtype.
        factor: enlargement of the result.
        labels: ParseNet's label maps of the restored faces; None pastes the whole squares.

    Returns:
        The result, [factor * h, factor * w] or [..., 3], in the picture's dtype.
    """
    height, width = (side * factor for side in picture.shape[:2])
    result = cv2.resize(picture, (width, height)) if factor > 1 else picture.copy()
    for number, (transform, face) in enumerate(zip(transforms, restored, strict=True)):
        inverse = _inverse(transform, factor)
        rows, columns = _around(inverse, result.shape)
        size = (columns.stop - columns.start, rows.stop - rows.start)
        if min(size) <= 0:
            continue
        inverse = inverse - np.array([[0, 0, columns.start], [0, 0, rows.start]])
        mask = _square(inverse, size, factor)
        if labels is not None:
            parsed = cv2.warpAffine(
                parsing_mask(labels[number]), inverse, size, flags=cv2.INTER_CUBIC
            )
            mask = np.minimum(mask, parsed)
        if picture.ndim == 3:
            mask = mask[..., None]
        pasted = in_levels(cv2.warpAffine(face, inverse, size), picture.dtype)
        mixed = mask * pasted + (1 - mask) * result[rows, columns]
        # Assigning truncates integers, as published.
        result[rows, columns] = mixed
    return result


def gray_like(restored: Pixels, crop: UInt8[np.ndarray, "s s 3"]) -> Float32[np.ndarray, "s s 3"]:
    """Returns a restored face in gray with the mean and deviation of the crop's channels.

    Args:
        restored: RGB face, in any dtype.
        crop: RGB crop that the face was restored from.

    Returns:
        Levels of the crop, not rounded.
    """
    gray = in_levels(restored, crop.dtype) @ _LUMA
    normal = (gray - gray.mean()) / max(float(gray.std()), 1e-5)
    means, deviations = (f(crop.astype(np.float32), axis=(0, 1)) for f in (np.mean, np.std))
    return normal[..., None] * deviations + means


def _inverse(transform: Transform, factor: int) -> Transform:
    """Returns the published transform from the square to the picture enlarged `factor` times."""
    inverse = invert(transform) * factor
    if factor > 1:
        inverse[:, 2] += 0.5 * factor
    return inverse


def _around(inverse: Transform, shape: tuple[int, ...]) -> Rectangle:
    """Returns the rows and columns that the warped square reaches, with two more on each side."""
    corners = np.array([(0, 0), (1, 0), (0, 1), (1, 1)], np.float64) * TEMPLATE_SIZE
    corners = apply(inverse, corners)
    low, high = np.floor(corners.min(0)) - 2, np.ceil(corners.max(0)) + 3
    columns, rows = (
        slice(*np.clip((start, stop), 0, length).astype(int).tolist())
        for start, stop, length in zip(low, high, shape[1::-1], strict=True)
    )
    return rows, columns


def _square(inverse: Transform, size: tuple[int, int], factor: int) -> Float32[np.ndarray, "_ _"]:
    """Returns the warped square with the published soft border, which grows with its area."""
    mask = np.ones((TEMPLATE_SIZE, TEMPLATE_SIZE), np.float32)
    mask = cv2.warpAffine(mask, inverse, size)
    mask = _erode(mask, _FIRST_EROSION * factor)
    border = 2 * (int(np.sqrt(mask.sum(dtype=np.float64))) // _SIDES_PER_BORDER)
    if border == 0:
        return mask
    return cv2.GaussianBlur(_erode(mask, border), (border + 1, border + 1), 0)


def _erode(mask: Float32[np.ndarray, "h w"], side: int) -> Float32[np.ndarray, "h w"]:
    return cv2.erode(mask, np.ones((side, side), np.uint8))
