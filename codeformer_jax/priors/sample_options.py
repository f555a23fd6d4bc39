"""Options of `codeformer-jax sample`, declared once."""

import os
from dataclasses import dataclass

from codeformer_jax.system.options import option

_Path = str | os.PathLike | None
_SAMPLING, _IMAGES, _FILES = "sampling", "pictures as input", "files"


@dataclass(frozen=True)
class SampleOptions:
    """Everything that can be set about sampling pictures; see the help text of each field.

    Raises:
        ValueError: at construction, if a number is out of range.
    """

    teacher: _Path = option(
        None,
        "workdir or model file of the autoencoder; default the one in the workdir",
        metavar="AE",
    )
    which: str | int = option(
        "latest", "checkpoint of a workdir: latest, best or a step", metavar="STEP"
    )
    number: int = option(16, "number of samples", "-n", metavar="N", section=_SAMPLING)
    classes: str | None = option(
        None,
        "class, several such as 0,3,7, or all; default spreads the samples over all classes",
        "--class",
        metavar="C",
        section=_SAMPLING,
    )
    size: str | None = option(
        None,
        "height x width in pixels, such as 256x384, or one number for a square: multiples of the "
        "autoencoder's downsampling, for a GPT at least the trained size; default the trained size",
        metavar="HxW",
        section=_SAMPLING,
    )
    temperature: float = option(
        1.0, "below 1 is more usual, 0 takes the likeliest code", metavar="T", section=_SAMPLING
    )
    top_k: int | None = option(
        None, "sample from the K likeliest codes; default all", metavar="K", section=_SAMPLING
    )
    top_p: float | None = option(
        None,
        "sample from the likeliest codes whose probabilities add up to P; default all",
        metavar="P",
        section=_SAMPLING,
    )
    seed: int = option(
        0, "sample i depends on the seed and on i only", metavar="N", section=_SAMPLING
    )
    batch_size: int | None = option(
        None,
        "maps per batch; default 8 on a CPU, 64 on an accelerator",
        metavar="N",
        section=_SAMPLING,
    )
    complete: _Path = option(
        None,
        "continue this picture; it is cut to the proportions of --size and resized",
        metavar="IMAGE",
        section=_IMAGES,
    )
    keep: str | None = option(
        None,
        "part of --complete to keep: top-half, left-half, or a share such as top:0.3 or left:0.3. "
        "A code depends on those above and left of it, so bottom and right cannot be kept; default "
        "top-half",
        metavar="PART",
        section=_IMAGES,
    )
    condition: _Path = option(
        None,
        "picture whose codes are the condition, for a prior with a condition of codes",
        metavar="IMAGE",
        section=_IMAGES,
    )
    condition_teacher: _Path = option(
        None,
        "autoencoder of --condition; default the one of the samples",
        metavar="AE",
        section=_IMAGES,
    )
    force: bool = option(False, "replace existing files", section=_FILES)

    def __post_init__(self):
        if self.number < 1:
            raise ValueError(f"-n is {self.number}; expected at least 1 sample")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed is {self.seed}; expected 0 to {2**32 - 1}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"--batch-size is {self.batch_size}; expected at least 1")
        if self.keep is not None and self.complete is None:
            raise ValueError("--keep is a part of a picture; add --complete IMAGE")
