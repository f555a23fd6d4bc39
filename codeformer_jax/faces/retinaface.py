"""RetinaFace as a detector (arXiv 1905.00641), from converted weights.

A picture is resized to a short side of 640 px and laid into the corner of a canvas. There are seven
sizes of canvas, so that pictures of all sizes share seven compiled programs. The network
masks the padding, so the canvas does not change its predictions.
"""

import functools
import math
import os
from collections.abc import Mapping
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from codeformer_jax.faces import models
from codeformer_jax.faces.face import Face, resize_points
from codeformer_jax.faces.suppression import suppress
from codeformer_jax.nn.retinaface import STRIDES

THRESHOLD = 0.8
SHORT_SIDE = 640
# Largest intersection over union with a better box.
OVERLAP = 0.4
# Long sides of the canvases, in short sides. The longest bounds the size of very long pictures.
_LENGTHS = (1, 1.5, 2, 3)
# Sides of the square anchors of each stride.
_ANCHOR_SIDES = ((16, 32), (64, 128), (256, 512))
# Units of the predicted offsets: centres and points in anchor sides, sizes in logarithms.
_CENTRE_UNIT, _SIZE_UNIT = 0.1, 0.2
# Blue, green, red.
_MEAN = (104.0, 117.0, 123.0)
# Best anchors that take part in the suppression.
_CANDIDATES = 5000


class RetinaFaceDetector:
    """Finds faces by RetinaFace; see `detect.Detector`.

    Args:
        model: the converted network.
        threshold: least score; None for the published 0.8.
        short_side: length in pixels to which the short side of a picture is resized.
    """

    name = "retinaface"

    def __init__(
        self, model: models.Model, threshold: float | None = None, short_side: int = SHORT_SIDE
    ):
        self.threshold = THRESHOLD if threshold is None else threshold
        self.model, self.short_side = model, short_side

    def __call__(self, picture: UInt8[np.ndarray, "h w 3"], name: str = "") -> list[Face]:
        """Returns the faces of a picture, best score first.

        Args:
            picture: RGB, 0..255.
            name: not used.

        Raises:
            ValueError: if the network's result is not finite.
        """
        height, width = picture.shape[:2]
        small, canvas = fitted_size(height, width, self.short_side)
        interpolation = cv2.INTER_AREA if small[0] < height else cv2.INTER_LINEAR
        pixels = np.zeros((*canvas, 3), np.uint8)
        pixels[: small[0], : small[1]] = cv2.resize(
            picture, small[::-1], interpolation=interpolation
        )
        model = self.model
        found = _detect(model.variables, pixels, np.array(small, np.int32), module=model.module)
        scores, boxes, points = map(np.asarray, found)
        if not np.isfinite(scores).all():
            raise ValueError(
                "RetinaFace's scores have infinities or NaN: its weights are damaged; convert "
                "them again"
            )
        order = np.argsort(-scores, kind="stable")[:_CANDIDATES]
        finite = np.isfinite(boxes).all(axis=1) & np.isfinite(points).all(axis=(1, 2))
        order = order[(scores[order] > self.threshold) & finite[order]]
        order = order[suppress(boxes[order], scores[order], OVERLAP)]
        ratio = np.array([width / small[1], height / small[0]])
        return [
            Face(
                box=tuple(resize_points(boxes[i].reshape(2, 2), ratio).ravel().tolist()),
                points=resize_points(points[i].astype(np.float64), ratio),
                score=float(scores[i]),
            )
            for i in order
        ]

    def describe(self) -> dict[str, Any]:
        """Returns name, thresholds and the model file's SHA-256, for the record."""
        return {
            "name": self.name,
            "backbone": self.model.module.backbone,
            "file": self.model.file,
            "sha256": self.model.sha256,
            "threshold": self.threshold,
            "overlap": OVERLAP,
            "short_side": self.short_side,
        }


def load(model: str | os.PathLike, threshold: float | None = None) -> RetinaFaceDetector:
    """Loads the detector.

    Args:
        model: a .safetensors file that `codeformer-jax convert` has written.
        threshold: least score; None for the published 0.8.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a model file of RetinaFace.
    """
    return RetinaFaceDetector(models.load(model, "retinaface"), threshold)


def fitted_size(
    height: int, width: int, short_side: int = SHORT_SIDE
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns (height, width) of the resized picture and of its canvas.

    Args:
        height, width: of the picture in pixels.
        short_side: of the canvas. The picture's is shorter only where its long side would exceed
            the longest canvas.
    """
    longest = round(short_side * _LENGTHS[-1])
    scale = min(short_side / min(height, width), longest / max(height, width))
    small = tuple(max(1, round(side * scale)) for side in (height, width))
    sides = (round(short_side * length) for length in _LENGTHS)
    long_side = next(side for side in sides if side >= max(small))
    return small, (long_side, short_side) if height > width else (short_side, long_side)


def make_anchors(height: int, width: int) -> Float[np.ndarray, "n 4"]:
    """Returns centre (x, y), side and stride in pixels of the anchors of a picture.

    Args:
        height, width: of the picture.
    """
    levels = []
    for stride, sides in zip(STRIDES, _ANCHOR_SIDES, strict=True):
        y, x = ((np.arange(math.ceil(n / stride)) + 0.5) * stride for n in (height, width))
        y, x, side = np.meshgrid(y, x, sides, indexing="ij")
        level = np.stack([x, y, side, np.full_like(x, stride)], axis=-1)
        levels.append(level.reshape(-1, 4))
    return np.concatenate(levels).astype(np.float32)


def decode_boxes(
    offsets: Float[Array, "n 4"], anchors: Float[np.ndarray, "n 4"]
) -> Float[Array, "n 4"]:
    """Returns left, top, right and bottom edges in pixels.

    Args:
        offsets: predictions.
        anchors: from `make_anchors`.
    """
    sides = anchors[:, 2:3]
    centres = anchors[:, :2] + _CENTRE_UNIT * offsets[:, :2] * sides
    halves = sides / 2 * jnp.exp(_SIZE_UNIT * offsets[:, 2:])
    return jnp.concatenate([centres - halves, centres + halves], axis=1)


def decode_points(
    offsets: Float[Array, "n 10"], anchors: Float[np.ndarray, "n 4"]
) -> Float[Array, "n 5 2"]:
    """Returns five points (x, y) in pixels, in the order of `Face`.

    Args:
        offsets: predictions.
        anchors: from `make_anchors`.
    """
    sides = anchors[:, 2].reshape(-1, 1, 1)
    return anchors[:, None, :2] + _CENTRE_UNIT * offsets.reshape(-1, 5, 2) * sides


@functools.partial(jax.jit, static_argnames="module")
def _detect(
    variables: Mapping[str, Any],
    canvas: UInt8[Array, "h w 3"],
    size: Int[Array, "2"],
    *,
    module: Any,
) -> tuple[Array, Array, Array]:
    """Returns scores [n], boxes [n, 4] and points [n, 5, 2] of all anchors.

    Anchors outside the picture, whose height and width is `size`, have the score 0.
    """
    mean = jnp.array(_MEAN, jnp.float32)
    images = canvas[None, ..., ::-1].astype(jnp.float32) - mean[None, None, None, :]
    output = module.apply(variables, images, size[None])
    anchors = make_anchors(*canvas.shape[:2])
    corners = anchors[:, 1::-1] - anchors[:, 3:] / 2  # Of the site: y, x.
    inside = jnp.all(corners < size[None, :].astype(jnp.float32), axis=1)
    scores = jnp.where(inside, jax.nn.softmax(output.logits[0])[:, 1], 0)
    return (
        scores,
        decode_boxes(output.boxes[0], anchors),
        decode_points(output.points[0], anchors),
    )
