"""Record of a restored photograph, `NAME.json` beside it: what was changed, where and by what."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from codeformer_jax.faces.face import TEMPLATE_SIZE, Face
from codeformer_jax.system.atomic import atomic_path
from codeformer_jax.system.hashes import file_sha256
from codeformer_jax.system.storage import Path


@dataclasses.dataclass(frozen=True)
class FaceRecord:
    """A face of a photograph, and what became of it.

    Attributes:
        number: its number in the picture, from 1.
        face: where it is.
        done: 'restored', or why it was not.
        crop_size: side of the network's crop in pixels; None if there was none.
        identity: cosine between the face before and after; None if it was not measured.
        sharpness: share of the picture's own pixels in the result, see `faces.sharpness`; None if
            it was not measured.
    """

    number: int
    face: Face
    done: str
    crop_size: int | None = None
    identity: float | None = None
    sharpness: float | None = None

    @property
    def enlargement(self) -> float | None:
        """Pixels of the network's crop per pixel of the picture."""
        if self.crop_size is None:
            return None
        return self.face.crop_scale * self.crop_size / TEMPLATE_SIZE


def photo_record(
    *,
    source: Path,
    result: Path,
    settings: Mapping[str, Any],
    detector: Mapping[str, Any],
    faces: Sequence[FaceRecord],
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Describes a restored photograph.

    Args:
        source: the photograph that was restored; its SHA-256 is computed.
        result: the restored photograph.
        settings: version, weights and options.
        detector: `Detector.describe()`.
        faces: every face that was found.
        notes: remarks on the picture.

    Returns:
        A dictionary that JSON can hold: `input`, `input_sha256`, `result`, `settings`, `detector`,
        `notes` and `faces`. A face has `number`, `box` (left, top, right, bottom), `points`,
        `score`, `transform` (from the picture to the template of 512 px), `size` (pixels in the
        picture), `enlargement`, `sharpness`, `done` and `identity`. (0, 0) is the centre of the
        top-left pixel. A number that is not finite is None.

    Raises:
        OSError: if the photograph cannot be read.
    """
    record = {
        "input": source.name,
        "input_sha256": file_sha256(source),
        "result": result.name,
        "settings": settings,
        "detector": detector,
        "notes": notes,
        "faces": [_describe(face) for face in faces],
    }
    return _plain(record)


def write_record(path: str | os.PathLike, record: Mapping[str, Any]) -> None:
    """Writes a record as JSON with one line for each face, atomically.

    Args:
        path: file to write or replace.
        record: from `photo_record`.
    """
    others = {name: value for name, value in record.items() if name != "faces"}
    head = json.dumps(others, indent=2, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
    faces = [json.dumps(face, ensure_ascii=False, allow_nan=False) for face in record["faces"]]
    lines = ",".join(f"\n    {face}" for face in faces)
    with atomic_path(path, sync=False) as temporary:
        temporary.write_text(f'{head},\n  "faces": [{lines}\n  ]\n}}\n', encoding="utf-8")


def _describe(record: FaceRecord) -> dict[str, Any]:
    face = record.face
    # Ten thousand pixels from the corner the rounded factors are wrong by 0.0001 px.
    transform = np.concatenate([face.transform[:, :2].round(8), face.transform[:, 2:].round(4)], 1)
    return {
        "number": record.number,
        "box": np.round(face.box, 2),
        "points": face.points.round(2),
        "score": round(float(face.score), 4),
        "transform": transform,
        "size": round(face.size, 1),
        "enlargement": _rounded(record.enlargement, 4),
        "sharpness": _rounded(record.sharpness, 4),
        "done": record.done,
        "identity": _rounded(record.identity, 4),
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(float(value), digits)


def _plain(value: Any) -> Any:
    """Returns a value as JSON has it."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
