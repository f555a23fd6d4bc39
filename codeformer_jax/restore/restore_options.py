"""Options of `codeformer-jax restore` and of `restore_files`, declared once."""

import dataclasses
import math
import os
from typing import SupportsFloat

from codeformer_jax.system.options import option

FORMATS = ("png", "jpg", "webp")
_Path = str | os.PathLike | None
_PICTURES, _CODES, _FILES = "pictures", "samples and scores", "files"


class RestoreError(ValueError):
    """Pictures, options or files that cannot be restored as asked."""


@dataclasses.dataclass(frozen=True)
class RestoreOptions:
    """Everything that can be set about a restoration of files; see the help text of each field.

    Raises:
        RestoreError: at construction, if a value is out of range.
    """

    w: float | None = option(
        None,
        "from 0 (quality) to 1 (fidelity to the input); default 0.5, for the embedded network 1",
        "-w",
        "--fidelity",
        metavar="W",
    )
    checkpoint: _Path = option(
        None,
        ".safetensors model file or training workdir; default the embedded network of 128 px",
        metavar="CKPT",
    )
    which: str | int = option(
        "latest", "checkpoint of a workdir: latest, best or a step", metavar="STEP"
    )
    adain: bool | None = option(
        None,
        "give the codes' features the statistics of the input's, which keeps its tone; default on, "
        "for a workdir the eval.adain of its run",
    )
    batch_size: int | None = option(
        None, "images per batch; default 1 on a CPU, 8 on an accelerator", metavar="N"
    )
    keep_gray: bool | None = option(
        None,
        "restore black-and-white pictures in black and white; default on, off for colorization "
        "networks",
        section=_PICTURES,
    )
    keep_known: bool | None = option(
        None,
        "fill in pure white pixels and keep all others; default off, on for inpainting networks",
        section=_PICTURES,
    )
    max_megapixels: float | None = option(
        None,
        "largest picture that is read, a guard against decompression bombs; default 89.5, for "
        "photographs 200",
        metavar="M",
        section=_PICTURES,
    )
    samples: int | None = option(
        None,
        "sample N restorations of each picture, NAME_1 to NAME_N; default is one restoration from "
        "the likeliest codes",
        metavar="N",
        section=_CODES,
    )
    seed: int | None = option(
        None,
        "seed of --samples; a sample depends on it, the picture's name and the sample's number "
        "only; default 0",
        metavar="N",
        section=_CODES,
    )
    temperature: float | None = option(
        None,
        "temperature of --samples; 0 takes the likeliest codes; default 1",
        metavar="T",
        section=_CODES,
    )
    score: _Path = option(
        None,
        "workdir or model file of a prior over the same codebook; writes NAME_score.png, a heat "
        "map of the bits of each code, and scores.json. Many bits are unusual in clean faces. "
        "Pictures are taken as aligned faces",
        metavar="PRIOR",
        section=_CODES,
    )
    score_teacher: _Path = option(
        None,
        "autoencoder of the prior; default the one in its workdir",
        metavar="AE",
        section=_CODES,
    )
    force: bool = option(
        False, "overwrite existing results", section=_FILES, exclusive="existing results"
    )
    skip_existing: bool = option(
        False,
        "keep existing results and restore the other pictures",
        section=_FILES,
        exclusive="existing results",
    )
    suffix: str = option(
        "", "appended to the names of results, such as _restored", metavar="TEXT", section=_FILES
    )
    file_format: str = option(
        "png", "format of the results", "--format", choices=FORMATS, section=_FILES
    )
    limit: int | None = option(None, "restore at most N pictures", metavar="N", section=_FILES)

    def __post_init__(self):
        if self.w is not None:
            check_weight(self.w)
        check_batch_size(self.batch_size)
        if self.samples is None:
            for name in ("seed", "temperature"):
                if getattr(self, name) is not None:
                    raise RestoreError(f"{name} is a setting of samples; add --samples N")
        elif self.samples < 1:
            raise RestoreError(f"samples is {self.samples}; expected at least 1")
        if not 0 <= (self.seed or 0) < 2**32:
            raise RestoreError(f"seed is {self.seed}; expected 0 to {2**32 - 1}")
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise RestoreError(
                f"temperature is {self.temperature}; expected 0 (the likeliest code) or more"
            )
        if self.score is None and self.score_teacher is not None:
            raise RestoreError("score_teacher is the autoencoder of a prior; add --score PRIOR")
        if self.file_format not in FORMATS:
            raise RestoreError(
                f"format is '{self.file_format}'; expected one of {', '.join(FORMATS)}"
            )
        if os.path.basename(self.suffix) != self.suffix:
            raise RestoreError(f"suffix is '{self.suffix}'; it must not hold a path separator")
        if self.limit is not None and self.limit < 1:
            raise RestoreError(f"limit is {self.limit}; expected at least 1")
        if self.max_megapixels is not None and not 0 < self.max_megapixels < math.inf:
            raise RestoreError(
                f"max_megapixels is {self.max_megapixels}; expected a finite number above 0"
            )


def check_weight(w: SupportsFloat) -> float:
    """Returns w as a float.

    Raises:
        RestoreError: if it is outside [0, 1].
    """
    w = float(w)
    if not 0 <= w <= 1:
        raise RestoreError(
            f"w is {w}; expected a number from 0 (quality) to 1 (fidelity to the input)"
        )
    return w


def check_batch_size(batch_size: int | None) -> None:
    """Raises RestoreError if the batch size is below 1; None passes."""
    if batch_size is not None and batch_size < 1:
        raise RestoreError(f"batch size is {batch_size}; expected at least 1")
