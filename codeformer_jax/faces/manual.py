"""Faces given by hand, for those that no detector finds.

A JSON file holds a list of faces, or {picture's file name: list}. A face is {"box": [left, top,
right, bottom]}, {"points": [[x, y], five times]} or both. The record that `restore` writes beside a
result has this form too, for the picture that it names as its input: correct it and give it back.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from codeformer_jax.faces.face import Face, apply, fit_similarity, invert
from codeformer_jax.system import storage

# Mean position of eyes, nose and corners of the mouth in YuNet's boxes of 200 frontal portraits, as
# parts of width and height, averaged with its mirror image. Crops from these points are off by 17
# template px on average.
POINTS_IN_BOX = np.array(
    [(0.263, 0.387), (0.737, 0.387), (0.5, 0.586), (0.291, 0.73), (0.709, 0.73)]
)
# Mean box of the same portraits in their aligned crops, in pixels of the template.
_TEMPLATE_BOX = np.array([(122.0, 97.0), (390.0, 470.0)])
_LARGEST = 10  # Sides of the picture.
_EXPECTED = 'expected {"box": [left, top, right, bottom]} or {"points": [[x, y], five times]}'


def parse_box(text: str) -> Face:
    """Reads a box 'x0,y0,x1,y1' in pixels.

    Raises:
        ValueError: if it is not a box.
    """
    try:
        return _from_box(text.split(","))
    except ValueError as error:
        raise ValueError(f"--box {text}: {error}") from error


@dataclasses.dataclass(frozen=True, eq=False)
class ManualDetector:
    """Detector that returns faces given by hand.

    Attributes:
        faces: those of every picture, or by the picture's file name.
        source: file and its SHA-256, for the record.
    """

    faces: tuple[Face, ...] | dict[str, tuple[Face, ...]]
    source: dict[str, str] = dataclasses.field(default_factory=dict)
    name: str = "manual"
    threshold: float = 0.0

    @classmethod
    def load(
        cls, path: str | os.PathLike | None = None, boxes: Sequence[str] | None = None
    ) -> "ManualDetector":
        """Reads faces from a file and from texts.

        Args:
            path: a JSON file.
            boxes: texts for `parse_box`, instead of a file.

        Raises:
            ValueError: if the file or a text is not as expected.
        """
        if path is None:
            return cls(tuple(parse_box(text) for text in boxes or ()))
        path = storage.to_path(path)
        try:
            data = path.read_bytes()
            content = json.loads(data)
        except OSError as error:
            raise ValueError(f"--boxes cannot be read: {error}") from error
        except ValueError as error:
            raise ValueError(f"{path} is not a JSON file: {error}") from error
        source = {"file": path.name, "sha256": hashlib.sha256(data).hexdigest()}
        return cls(_read_content(content, path), source)

    def describe(self) -> dict[str, Any]:
        """Returns the name, and the file and its SHA-256 if there is one."""
        return {"name": self.name, **self.source}

    def __call__(self, picture: UInt8[np.ndarray, "h w 3"], name: str = "") -> list[Face]:
        """Returns the faces of a picture.

        Args:
            picture: RGB; only its size is read.
            name: its path; '' for the only picture of the file. A file of boxes names a picture by
                the end of its path, such as `p.png` or `holiday/p.png`.

        Raises:
            ValueError: if a face lies outside the picture.
        """
        faces = self.faces
        if isinstance(faces, dict):
            only = next(iter(faces), "") if len(faces) == 1 else ""
            parts = (name or only).split("/")
            ends = ("/".join(parts[i:]) for i in range(len(parts)))
            faces = next((faces[end] for end in ends if end in faces), ())
        height, width = picture.shape[:2]
        for face in faces:
            left, top, right, bottom = face.box
            if right < 0 or bottom < 0 or left >= width or top >= height:
                raise ValueError(
                    f"the given box {left:.0f},{top:.0f},{right:.0f},{bottom:.0f} is outside the "
                    f"{width} x {height} px; give boxes in pixels of this picture, after rotation "
                    "by EXIF"
                )
            if face.size > _LARGEST * max(height, width):
                raise ValueError(
                    f"the given box is {face.size:.0f} px large, more than {_LARGEST} times the "
                    f"{width} x {height} px of the picture"
                )
        return list(faces)


def _read_content(content: Any, path: storage.Path):
    """Returns the faces of a file's content, by picture if it names them."""
    if isinstance(content, dict) and "faces" in content:
        content = {content["input"]: content["faces"]} if "input" in content else content["faces"]
    if isinstance(content, dict):
        return {name: _read_faces(entries, f"{path}, {name}") for name, entries in content.items()}
    return _read_faces(content, str(path))


def _read_faces(entries: Any, where: str) -> tuple[Face, ...]:
    if not isinstance(entries, list):
        raise ValueError(f"{where}: expected a list of faces, got {_shorten(entries)}")
    return tuple(_read_face(entry, f"{where}, face {i}") for i, entry in enumerate(entries, 1))


def _read_face(entry: Any, where: str) -> Face:
    if not isinstance(entry, dict) or not entry.keys() & {"box", "points"}:
        raise ValueError(f"{where}: {_EXPECTED}, got {_shorten(entry)}")
    try:
        face = _from_box(entry["box"]) if entry.get("box") is not None else None
        if entry.get("points") is None:
            if face is None:
                raise ValueError(_EXPECTED)
            return face
        points = _numbers(entry["points"], (5, 2), '"points" of five [x, y]')
        transform = fit_similarity(points)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return Face(face.box if face else _box_of(transform), points)


def _from_box(box: Any) -> Face:
    left, top, right, bottom = _numbers(box, (4,), "four numbers left,top,right,bottom").tolist()
    if right - left < 1 or bottom - top < 1:
        raise ValueError(
            f"expected left < right and top < bottom, in pixels; got {left:g},{top:g},{right:g},"
            f"{bottom:g}"
        )
    points = POINTS_IN_BOX * [right - left, bottom - top] + np.array([left, top])
    return Face((left, top, right, bottom), points)


def _box_of(transform: Float[np.ndarray, "2 3"]) -> tuple[float, float, float, float]:
    """Returns the box that YuNet would give a face, upright around its centre."""
    low, high = _TEMPLATE_BOX
    centre, top = apply(invert(transform), np.stack([(low + high) / 2, [256.0, low[1]]]))
    half = (high - low) / (high[1] - low[1]) * np.linalg.norm(centre - top)
    return (*(centre - half).tolist(), *(centre + half).tolist())


def _numbers(value: Any, shape: tuple[int, ...], expected: str) -> np.ndarray:
    try:
        numbers = np.array(value, np.float64)
    except (TypeError, ValueError):
        numbers = np.array(math.nan)
    if numbers.shape != shape or not np.isfinite(numbers).all():
        raise ValueError(f"expected {expected}, got {_shorten(value)}")
    return numbers


def _shorten(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
