"""YuNet (Wu et al. 2023) as in OpenCV's `FaceDetectorYN`, in two passes.

The network finds faces of about 10 to 320 px. The first pass runs it on two sizes of the picture.
The second pass runs it on each face's aligned crop and the crop's mirror image. It drops candidates
that are not faces, and its points are more precise.

Measured on 50 aligned portraits, degraded to faces of 17, 34, 68 and 270 px: the crop's position
varies between people by 27, 11, 11 and 10 px of the template after the first pass (root mean
square), and by 14, 10, 8 and 8 px after the second. For faces of 68 px that are tilted by 30
degrees, the mean position is wrong by 25 px with one upright crop, and by 4 px with up to six.
"""

import dataclasses
import hashlib
import os
import threading
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from codeformer_jax.faces.align import cut
from codeformer_jax.faces.face import (
    TEMPLATE_SIZE,
    Face,
    apply,
    invert,
    resize_points,
    scale_of,
    template,
    to_size,
)
from codeformer_jax.faces.models import embedded_file
from codeformer_jax.faces.suppression import suppress
from codeformer_jax.system import storage

MODEL = "face_detection_yunet_2023mar_int8bq.onnx"
SHA256 = "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10"
THRESHOLD = 0.7
IOU = 0.3

# Longest sides in pixels of the first pass's pictures: the small one shows faces that fill the
# picture, the large one those of a big group.
PYRAMID = (320, 2560)
# Largest box in pixels that counts in the large picture, where the network takes parts of larger
# faces for faces. The small picture shows these.
_LARGEST_FINE = 160
# Least score of the first pass. The second pass tells faces from the rest.
_CANDIDATE = 0.3

# Side in pixels of the small crop, in which a face is 68 px wide: the network's scores are best
# there. The crop of the template's size is more precise if it does not enlarge more than this.
_SMALL = 128
_ENLARGED = 8
# Score margin by which a further rotation of a crop must beat the best one so far.
_UPRIGHT_BONUS = 0.02
# Maximum number of small-crop refinements per face. They stop early once the points move less than
# `_SETTLED` pixels of the template on average.
_MAX_CROPS = 6
_SETTLED = 4
# Largest mean distance of a crop's points from the template, as a part of the crop.
_OFF_TEMPLATE = 0.25
_MIRRORED = [0, 2, 1, 3, 5, 4]  # Reorders the points of a mirrored crop.


@dataclasses.dataclass(frozen=True, eq=False)
class YuNet:
    """Detector that is safe to share between threads.

    Attributes:
        network: OpenCV's detector, which holds state.
        digest: SHA-256 of the model file.
        threshold: least score of a face in the second pass.
    """

    network: cv2.FaceDetectorYN
    digest: str
    threshold: float = THRESHOLD
    name: str = "yunet"
    _lock: Any = dataclasses.field(default_factory=threading.Lock, repr=False)

    @classmethod
    def load(
        cls, model: str | os.PathLike | None = None, threshold: float | None = None
    ) -> "YuNet":
        """Loads the embedded network or another one.

        Args:
            model: a YuNet ONNX file; None for the embedded one.
            threshold: least score; None for 0.7.

        Raises:
            ValueError: if the file is missing or is not a YuNet.
        """
        threshold = THRESHOLD if threshold is None else threshold
        data = embedded_file(MODEL, SHA256) if model is None else _read(model)
        try:
            network = _open(data, min(_CANDIDATE, threshold))
        except cv2.error as error:
            raise ValueError(
                f"{model or MODEL} is not a YuNet model that OpenCV {cv2.__version__} can run: "
                f"{error.err}. Expected a file of OpenCV's model zoo, face_detection_yunet_*.onnx"
            ) from error
        return cls(network, hashlib.sha256(data).hexdigest(), float(threshold))

    def describe(self) -> dict[str, Any]:
        """Returns name, thresholds and the model file's SHA-256."""
        return {
            "name": self.name,
            "threshold": self.threshold,
            "iou": IOU,
            "sha256": self.digest,
        }

    def __call__(self, picture: UInt8[np.ndarray, "h w 3"], name: str = "") -> list[Face]:
        """Returns the faces of a picture, best score first.

        Args:
            picture: RGB, 0..255.
            name: unused.
        """
        found: list[Face] = []
        for turns in range(4):
            turned = np.ascontiguousarray(np.rot90(picture, turns))
            faces = [self._refined(turned, face) for face in self._candidates(turned)]
            faces = [face for face in faces if face is not None]
            found += [_turned_back(face, turns, picture.shape) for face in faces]
            # Most turned faces escape the first pass.
            if any(_is_upright(face) for face in faces):
                break
        return _best(found)

    def _candidates(self, picture: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """Returns the faces of the first pass."""
        found, shrunk, longest = [], picture, max(picture.shape[:2])
        for side in sorted({min(side, longest) for side in PYRAMID}, reverse=True):
            shrunk = _shrunk(shrunk, side)
            ratio = np.array(shrunk.shape[1::-1]) / picture.shape[1::-1]
            for one in self._detect(shrunk):
                if side <= PYRAMID[0] or one.sides.max() <= _LARGEST_FINE:
                    places = resize_points(one.places, 1 / ratio)
                    found.append(_Detection(places, one.sides / ratio, one.score))
        return _best([one.face() for one in found])

    def _refined(self, picture: UInt8[np.ndarray, "h w 3"], face: Face) -> Face | None:
        """Returns a face with the second pass's box and points; None if it finds no face."""
        try:
            face = self._upright(picture, face)
            for _ in range(_MAX_CROPS):
                small = self._detect_in_crop(picture, face, _SMALL)
                if small is None:
                    return None
                moved = np.linalg.norm(small.face().points - face.points, axis=1).mean()
                settled = moved * face.crop_scale < _SETTLED
                face = small.face()
                if settled:
                    break
            if face.crop_scale <= _ENLARGED and (
                large := self._detect_in_crop(picture, face, TEMPLATE_SIZE)
            ):
                face = _mean([small, large]).face()
            return face
        except ValueError:  # Points that coincide fit no template.
            return None

    def _upright(self, picture: UInt8[np.ndarray, "h w 3"], face: Face) -> Face:
        """Returns a face whose crop is upright; the network takes turned faces for upright ones."""
        transform = to_size(face.transform, _SMALL)
        crop = cut(picture, transform, _SMALL)
        best, least = face, 0.0
        for turns in range(4):
            turned = np.ascontiguousarray(np.rot90(crop, turns))
            one = self._near_template(turned, _SMALL)
            if one is not None and one.score > least:
                found = _turned_back(one.face(), turns, crop.shape)
                points = apply(invert(transform), found.points)
                best = face if turns == 0 else Face(face.box, points, one.score)
                least = one.score + _UPRIGHT_BONUS
        return best

    def _detect_in_crop(
        self, picture: UInt8[np.ndarray, "h w 3"], face: Face, size: int
    ) -> "_Detection | None":
        """Returns the mean over an aligned crop and its mirror image; None if one shows no face."""
        transform = to_size(face.transform, size)
        crop = cut(picture, transform, size)
        mirrored = self._near_template(np.ascontiguousarray(crop[:, ::-1]), size)
        straight = self._near_template(crop, size)
        if straight is None or mirrored is None:
            return None
        places = mirrored.places[_MIRRORED] * [-1, 1] + [size - 1, 0]
        mean = _mean([straight, dataclasses.replace(mirrored, places=places)])
        sides = mean.sides / scale_of(transform)
        lies = abs(transform[0, 1]) > abs(transform[0, 0])
        return _Detection(
            apply(invert(transform), mean.places), sides[::-1] if lies else sides, mean.score
        )

    def _near_template(
        self, crop: UInt8[np.ndarray, "size size 3"], size: int
    ) -> "_Detection | None":
        """Returns the best face whose points lie near the template."""
        expected = template(size)

        def is_near(one):
            distance = np.linalg.norm(one.places[1:] - expected, axis=1).mean()
            return one.score >= self.threshold and distance < _OFF_TEMPLATE * size

        return next(filter(is_near, self._detect(crop)), None)

    def _detect(self, picture: UInt8[np.ndarray, "h w 3"]) -> list["_Detection"]:
        """Returns the network's detections, best score first."""
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        with self._lock:
            self.network.setInputSize(bgr.shape[1::-1])
            _, rows = self.network.detect(bgr)
        rows = np.zeros((0, 15)) if rows is None else rows.astype(np.float64)
        rows = rows[np.isfinite(rows).all(axis=1)]
        return [_Detection.from_row(row) for row in rows[np.argsort(-rows[:, 14], kind="stable")]]


@dataclasses.dataclass(frozen=True, eq=False)
class _Detection:
    """The network's output for a face.

    Attributes:
        places: centre of the box and five points.
        sides: width and height of the box.
        score: in [0, 1].
    """

    places: Float[np.ndarray, "6 2"]
    sides: Float[np.ndarray, "2"]
    score: float

    @classmethod
    def from_row(cls, row: Float[np.ndarray, "15"]) -> "_Detection":
        """Returns one of OpenCV's rows: left, top, width, height, five points, score."""
        low, sides = row[:2], row[2:4]
        places = np.concatenate([[low + sides / 2], row[4:14].reshape(5, 2)])
        return cls(places, sides, float(row[14]))

    def face(self) -> Face:
        """Returns box, points and score."""
        centre, half = self.places[0], self.sides / 2
        box = (*(centre - half).tolist(), *(centre + half).tolist())
        return Face(box, self.places[1:], self.score)


def _mean(found: list[_Detection]) -> _Detection:
    return _Detection(
        np.mean([one.places for one in found], axis=0),
        np.mean([one.sides for one in found], axis=0),
        float(np.mean([one.score for one in found])),
    )


def _turned_back(face: Face, turns: int, shape: tuple[int, ...]) -> Face:
    """Returns a face of `np.rot90(picture, turns)` as it lies in the picture of a shape."""
    corners = np.array(face.box).reshape(2, 2)
    places = np.concatenate([corners, face.points])
    for turn in range(turns, 0, -1):
        width = shape[turn % 2]  # Width of the picture before this turn.
        places = np.stack([width - 1 - places[:, 1], places[:, 0]], axis=1)
    low, high = places[:2].min(axis=0).tolist(), places[:2].max(axis=0).tolist()
    return Face((*low, *high), places[2:], face.score)


def _is_upright(face: Face) -> bool:
    """Returns whether a face is tilted by less than 45 degrees."""
    across, down = face.transform[0, :2]
    return bool(across > abs(down))


def _best(faces: list[Face]) -> list[Face]:
    """Returns the best face of every group that overlaps, best score first."""
    boxes = np.array([face.box for face in faces], np.float64).reshape(-1, 4)
    scores = np.array([face.score for face in faces], np.float64)
    return [faces[i] for i in suppress(boxes, scores, IOU)]


def _read(model: str | os.PathLike) -> bytes:
    try:
        return storage.read_bytes(model)
    except OSError as error:
        raise ValueError(f"--detector-model cannot be read: {error}") from error


def _open(data: bytes, threshold: float) -> cv2.FaceDetectorYN:
    """Returns OpenCV's detector after a trial.

    Raises:
        cv2.error: if the data are not a model of this kind.
    """
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    # OpenCV 5 warns for each model that no backend is set.
    logging.setLogLevel(logging.LOG_LEVEL_ERROR)
    try:
        network = cv2.FaceDetectorYN.create(
            "onnx",
            np.frombuffer(data, np.uint8),
            np.empty(0, np.uint8),
            (64, 64),
            threshold,
            IOU,
        )
        network.detect(np.zeros((64, 64, 3), np.uint8))
    finally:
        logging.setLogLevel(level)
    return network


def _shrunk(picture: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Returns the picture with `side` as its longest side, shrunk by area."""
    ratio = side / max(picture.shape[:2])
    width, height = (max(1, round(length * ratio)) for length in picture.shape[1::-1])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
