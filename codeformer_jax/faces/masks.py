"""Masks of the part of an aligned crop that is pasted: float32 in [0, 1], zero at the border."""

import cv2
import numpy as np
from jaxtyping import Float, Float32, Integer

from codeformer_jax.faces.face import TEMPLATE_SIZE, resize_points, template

# Right half of a face's outline from the top of the forehead to the chin; it is mirrored for the
# left half. The origin lies midway between the eyes. x is in distances between the eyes, to the
# right, and y in distances from the eyes to the mouth, down.
_HALF_OUTLINE = np.array(
    [
        (0.0, -0.95),
        (0.55, -0.88),
        (0.95, -0.55),
        (1.14, 0.0),
        (1.08, 0.6),
        (0.9, 1.1),
        (0.55, 1.5),
        (0.0, 1.68),
    ]
)
# Widths as shares of the square's side.
_FEATHER = 1 / 32
_BORDER = 1 / 16
# Side of the grid that the hull is blurred on.
_GRID = 128

# ParseNet's classes that belong to the face: skin, brows, eyes, glasses, ears, ear rings, nose,
# mouth, lips, necklace. Neck, hat, hair, clothes and background stay as they are.
FACE_CLASSES = (*range(1, 14), 15)


def hull_mask(
    size: int, points: Float[np.ndarray, "5 2"] | None = None
) -> Float32[np.ndarray, "{size} {size}"]:
    """Returns the feathered convex hull of the face.

    Args:
        size: side of the crop in pixels.
        points: the face's five points in the crop, as in `Face`; the template's by default. A
            turned head moves them away from the template.
    """
    # The mask is soft, so a coarse grid suffices.
    grid = min(size, _GRID)
    points = template(grid) if points is None else resize_points(points, grid / size)
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    right, down = points[1] - points[0], mouth - eyes
    outline = np.concatenate([_HALF_OUTLINE, _HALF_OUTLINE * (-1, 1)])
    outline = np.concatenate([eyes + outline @ np.stack([right, down]), points])
    hull = cv2.convexHull(outline.astype(np.float32))
    # Coordinates with 4 binary places draw the outline to 1/16 px.
    mask = np.zeros((grid, grid), np.uint8)
    cv2.fillConvexPoly(mask, np.rint(hull * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
    blurred = cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), grid * _FEATHER)
    return np.minimum(cv2.resize(blurred, (size, size)), square_mask(size))


def square_mask(size: int) -> Float32[np.ndarray, "{size} {size}"]:
    """Returns the whole square with a smooth border of a sixteenth of its side."""
    steps = np.arange(size)
    distance = np.minimum(steps, size - 1 - steps) / max(size * _BORDER, 1)
    distance = np.minimum(distance, 1)
    ramp = (distance * distance * (3 - 2 * distance)).astype(np.float32)
    return ramp[:, None] * ramp[None, :]


def parsing_mask(labels: Integer[np.ndarray, "s s"]) -> Float32[np.ndarray, "s s"]:
    """Returns the published mask of ParseNet's label map of a restored face.

    The face's classes are blurred twice by a Gaussian of 11 px (at 512 px), and a border of 10 px
    is set to zero.
    """
    size = labels.shape[0]
    scale = size / TEMPLATE_SIZE
    mask = np.isin(labels, FACE_CLASSES).astype(np.float32)
    side = 2 * round(50 * scale) + 1
    for _ in range(2):
        mask = cv2.GaussianBlur(mask, (side, side), 11 * scale)
    border = max(1, round(10 * scale))
    inside = np.zeros_like(mask)
    kept = slice(border, size - border)
    inside[kept, kept] = mask[kept, kept]
    return inside
