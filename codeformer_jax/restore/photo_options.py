"""Options of whole photographs, declared once."""

import argparse
import dataclasses
import math
import os
from collections.abc import Sequence

from codeformer_jax.restore.restore_options import RestoreError
from codeformer_jax.system.options import option

ALIGNED = ("auto", "yes", "no")
DETECTORS = ("yunet", "retinaface")
PASTES = ("hull", "square", "published")
SCALES = (1, 2, 4)
MAX_MEGAPIXELS = 200.0
PREVIEW_SUFFIX = "_faces"
_Path = str | os.PathLike | None
_PHOTOS, _FACES, _PASTE = "photographs", "choice of faces", "pasting and texture"


def _aligned(text: str) -> str:
    """Returns a value of `--aligned`, which may have swallowed an input."""
    if text not in ALIGNED:
        raise argparse.ArgumentTypeError(
            f"'{text}' is none of {', '.join(ALIGNED)}; give the inputs before --aligned, or write "
            "--aligned=yes"
        )
    return text


@dataclasses.dataclass(frozen=True)
class PhotoOptions:
    """Everything that can be set about whole photographs; see the help text of each field.

    Raises:
        RestoreError: at construction, if a value is out of range.
    """

    aligned: str = option(
        "auto",
        "how to treat pictures. yes, or --aligned alone: each is a crop of one aligned face. no: "
        "each is a photograph. auto: a square picture whose only face sits on the template is a "
        "crop, any other a photograph",
        nargs="?",
        const="yes",
        metavar="auto,yes,no",
        type=_aligned,
        section=_PHOTOS,
    )
    detector: str = option("yunet", "face detector", choices=DETECTORS, section=_PHOTOS)
    detector_model: _Path = option(
        None,
        "model file of the detector: another YuNet ONNX file, or converted RetinaFace weights",
        metavar="FILE",
        section=_PHOTOS,
    )
    threshold: float | None = option(
        None,
        "minimum score of a face; default 0.7 for yunet, 0.8 for retinaface",
        metavar="P",
        section=_PHOTOS,
    )
    box: Sequence[str] | None = option(
        None,
        "box of a face, instead of the detector; may be repeated. Write "
        "--box=-5,... for a box that begins outside the picture",
        action="append",
        type=str,
        metavar="X0,Y0,X1,Y1",
        section=_PHOTOS,
    )
    boxes: _Path = option(
        None,
        "JSON file of boxes or points, such as a result's NAME.json; replaces the detector",
        metavar="FILE",
        section=_PHOTOS,
    )
    dry_run: bool = option(
        False,
        "restore nothing; write NAME_faces.png with boxes, points and numbers",
        section=_PHOTOS,
    )
    scale: int = option(
        1, "enlarge the picture: 1, 2 or 4 times", type=int, choices=SCALES, section=_PHOTOS
    )
    background: _Path = option(
        None,
        "converted RRDBNet weights that enlarge the background; default Lanczos",
        metavar="WEIGHTS",
        section=_PHOTOS,
    )
    identity: bool = option(
        False,
        "compare each face with its restoration by SFace and warn if they differ",
        section=_PHOTOS,
    )
    faces: str = option(
        "all",
        "faces to restore: all, largest, center, or numbers of --dry-run such as 1,3",
        metavar="WHICH",
        section=_FACES,
    )
    min_size: float = option(
        10.0, "minimum distance of the eyes in pixels", metavar="PX", section=_FACES
    )
    max_faces: int = option(100, "maximum number of faces per picture", metavar="N", section=_FACES)
    paste: str = option(
        "hull",
        "region that is pasted: hull of the face, square of the crop, or the published geometry, "
        "which needs a network of 512 px",
        choices=PASTES,
        section=_PASTE,
    )
    parsing: _Path = option(
        None,
        "converted ParseNet weights; the region is the face that they segment, instead of the hull",
        metavar="WEIGHTS",
        section=_PASTE,
    )
    detail: bool = option(
        True,
        "keep the picture's detail finer than the network's pixels, and faces larger than its "
        "images that are sharp enough",
        section=_PASTE,
    )
    match_color: bool = option(True, "keep the picture's colours in the face", section=_PASTE)
    grain: bool = option(False, "add the picture's noise level to the face", section=_PASTE)

    def __post_init__(self):
        for name, known in (
            ("aligned", ALIGNED),
            ("detector", DETECTORS),
            ("scale", SCALES),
            ("paste", PASTES),
        ):
            if (value := getattr(self, name)) not in known:
                expected = ", ".join(map(str, known))
                raise RestoreError(f"{name} is {value!r}; expected one of {expected}")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise RestoreError(f"threshold is {self.threshold}; expected a number in (0, 1)")
        if not 0 <= self.min_size < math.inf:
            raise RestoreError(f"min_size is {self.min_size}; expected 0 or more pixels")
        if self.max_faces < 1:
            raise RestoreError(f"max_faces is {self.max_faces}; expected at least 1")
        if self.parsing is not None and self.paste == "square":
            raise RestoreError("--parsing and --paste square are two regions; leave out one")
        if self.paste == "published" and (self.background is not None or self.grain):
            raise RestoreError("--paste published has neither --background nor --grain")
        if self.box and self.boxes:
            raise RestoreError("give faces by --box or by --boxes, not by both")
        if (self.box or self.boxes) and (self.threshold is not None or self.detector_model):
            raise RestoreError(
                "--box and --boxes replace the detector; leave out --threshold and --detector-model"
            )
        if self.background is not None and self.scale == 1:
            raise RestoreError("--background needs an enlarged picture; add --scale 2 or 4")

    def changed(self) -> tuple[str, ...]:
        """Returns the names of the options, besides `aligned`, that do not have their defaults."""
        return tuple(
            field.name
            for field in dataclasses.fields(self)
            if field.name != "aligned" and getattr(self, field.name) != field.default
        )
