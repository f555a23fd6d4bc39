"""Faces in a picture, and the similarity that takes one to the template of aligned faces.

Coordinates are (x, y) in pixels; (0, 0) is the centre of the top-left pixel. Transforms are
float64 [2, 3] and map (x, y, 1).
"""

import dataclasses
import functools
import math

import cv2
import numpy as np
from jaxtyping import Float

TEMPLATE_SIZE = 512
# FFHQ's alignment: the eyes (the one on the left of the picture first), the tip of the nose and the
# corners of the mouth, in a square of 512 px.
TEMPLATE = np.array(
    [
        (192.98138, 239.94708),
        (318.90277, 240.1936),
        (256.63416, 314.01935),
        (201.26117, 371.41043),
        (313.08905, 371.15118),
    ]
)

Transform = Float[np.ndarray, "2 3"]


@dataclasses.dataclass(frozen=True, eq=False)
class Face:
    """A face in a picture.

    Attributes:
        box: left, top, right and bottom edge; it may reach beyond the picture.
        points: eyes (the one on the left of the picture first), nose, corners of the mouth.
        score: the detector's confidence in [0, 1]; 1 for a face that was given by hand.
    """

    box: tuple[float, float, float, float]
    points: Float[np.ndarray, "5 2"]
    score: float = 1.0

    @functools.cached_property
    def transform(self) -> Transform:
        """Similarity from the picture to the template's square of 512 px."""
        return fit_similarity(self.points)

    @property
    def crop_scale(self) -> float:
        """Pixels of the template's square per pixel of the picture."""
        return scale_of(self.transform)

    @property
    def size(self) -> float:
        """Geometric mean of the box's sides, in pixels."""
        left, top, right, bottom = self.box
        return math.sqrt(max(right - left, 0) * max(bottom - top, 0))

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the box."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


def fit_similarity(points: Float[np.ndarray, "5 2"]) -> Transform:
    """Returns the similarity from five points to the template, by least median of squares.

    The fit ignores a point that lies far from where the others expect it.

    Args:
        points: as in `Face`.

    Raises:
        ValueError: if the points coincide or are not finite.
    """
    points = np.asarray(points, np.float64)
    if np.isfinite(points).all():
        transform, _ = cv2.estimateAffinePartial2D(points, TEMPLATE, method=cv2.LMEDS)
        if transform is not None and np.isfinite(transform).all() and scale_of(transform) > 0:
            return transform
    raise ValueError(f"no similarity maps the points {points.round(1).tolist()} to the template")


def to_size(transform: Transform, size: int) -> Transform:
    """Returns the transform to a square of `size` px, given the one to the template's 512 px.

    The squares cover the same area: the result equals resizing the 512-px square.
    """
    ratio = size / TEMPLATE_SIZE
    shift = np.array([[0, 0, 0.5], [0, 0, 0.5]])
    return (transform + shift) * ratio - shift


def template(size: int) -> Float[np.ndarray, "5 2"]:
    """Returns the template's points in a square of `size` px."""
    return resize_points(TEMPLATE, size / TEMPLATE_SIZE)


def resize_points(
    points: Float[np.ndarray, "*n 2"], ratio: float | Float[np.ndarray, "2"]
) -> Float[np.ndarray, "*n 2"]:
    """Returns where points lie after their picture was resized.

    Args:
        points: (x, y) before.
        ratio: side after by side before, one for both axes or (x, y).
    """
    return (points + 0.5) * ratio - 0.5


def invert(transform: Transform) -> Transform:
    """Returns the inverse transform."""
    return cv2.invertAffineTransform(transform)


def scale_of(transform: Transform) -> float:
    """Returns by which factor a similarity enlarges lengths."""
    return math.sqrt(abs(np.linalg.det(transform[:, :2])))


def apply(transform: Transform, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Maps points."""
    return points @ transform[:, :2].T + transform[:, 2]
