"""Pictures as input of a prior: one to continue, or one whose codes are the condition."""

import os
import re
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32
from PIL import Image

from codeformer_jax.data.images import read_image
from codeformer_jax.priors.prior import Prior
from codeformer_jax.priors.sample_options import SampleOptions
from codeformer_jax.priors.sheet import Picture

_FADED = 0.25  # Contrast of the part of a picture that is not kept.

References = list[tuple[str, Picture]]


def keep_mask(part: str, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Returns the mask of the sites to keep.

    Args:
        part: 'top-half', 'left-half', or a share of the rows or columns, 'top:0.3' or 'left:0.3'.
        size: rows and columns of the map.

    Returns:
        True at the sites to keep.

    Raises:
        ValueError: if `part` is anything else, or leaves nothing to continue or to sample.
    """
    match = re.fullmatch(r"(top|left|bottom|right)(?:-half|:(0?\.\d+))", part)
    if match is None:
        raise ValueError(
            f"--keep is {part!r}; expected top-half, left-half, or a share between 0 and 1 such as "
            "top:0.3 or left:0.3"
        )
    if match[1] in ("bottom", "right"):
        raise ValueError(
            f"--keep {part}: codes are sampled row by row from the top left, and each depends on "
            "those before it only; keep 'top' or 'left'"
        )
    axis = 0 if match[1] == "top" else 1
    number = round(float(match[2] or 0.5) * size[axis])
    if not 0 < number < size[axis]:
        raise ValueError(
            f"--keep {part} keeps {number} of the map's {size[axis]} {('rows', 'columns')[axis]}; "
            "give a share that leaves something to continue and something to sample"
        )
    mask = np.zeros(size, bool)
    mask[(slice(None),) * axis + (slice(number),)] = True
    return mask


def read_inputs(
    prior: Prior, size: tuple[int, int], options: SampleOptions
) -> tuple[dict[str, Any], References]:
    """Reads the pictures of `complete` and `condition`.

    Args:
        prior: the prior.
        size: rows and columns of the maps to sample.
        options: those of the call.

    Returns:
        Fields of a `SamplePlan`, and pictures with captions for the sheet.

    Raises:
        UnreadableImage: if a file is not a picture.
        ValueError: if a picture or part does not fit the prior.
    """
    fields: dict[str, Any] = {}
    references: References = []
    if options.condition is not None or prior.kind.condition == "codes":
        fields["condition"], picture = _condition(prior, options.condition, size)
        references.append(("condition", picture))
    if options.complete is not None:
        mask = keep_mask(options.keep or "top-half", size)
        source = _read(options.complete, tuple(side * prior.downsampling for side in size))
        fields |= {"known": prior.values_of(source[None]), "known_mask": mask}
        references += [("source", source), ("kept", _faded(source, mask))]
    return fields, references


def _condition(
    prior: Prior, path: str | os.PathLike | None, map_size: tuple[int, int]
) -> tuple[Int32[np.ndarray, "..."], Picture]:
    """Returns the codes of the condition, and its picture."""
    if prior.kind.condition != "codes":
        raise ValueError("--condition: this prior has no condition of codes; leave it out")
    if path is None:
        raise ValueError("this prior has a condition of codes: give a picture as --condition IMAGE")
    length, stage1 = prior.module.condition_length, prior.condition_stage1
    window = prior.map_size[0] * prior.map_size[1]
    # A condition as long as the window is a map that the window cuts, too.
    side = stage1.module.image_size // stage1.module.downsampling
    if length not in (window, side * side):
        raise ValueError(
            f"the condition's autoencoder makes {side}x{side} codes of a picture, and this prior "
            f"takes {length}; give the one it was trained with as --condition-teacher"
        )
    size = map_size if length == window else (side, side)
    picture = _read(path, tuple(n * stage1.module.downsampling for n in size))
    codes = stage1.encode(picture[None])[0]
    return (codes if length == window else codes.reshape(-1)), picture


def _read(path: str | os.PathLike, size: tuple[int, int]) -> Picture:
    """Returns the centre of a picture with the proportions of `size`, resized to it."""
    image = Image.fromarray(read_image(path).pixels)
    scale = min(image.height / size[0], image.width / size[1])
    height, width = (
        max(1, min(round(side * scale), most))
        for side, most in zip(size, (image.height, image.width), strict=True)
    )
    left, top = (image.width - width) // 2, (image.height - height) // 2
    image = image.crop((left, top, left + width, top + height))
    # The same filters as for training images: Lanczos down, bilinear up.
    method = Image.Resampling.LANCZOS if scale > 1 else Image.Resampling.BILINEAR
    return np.array(image if image.size == size[::-1] else image.resize(size[::-1], method))


def _faded(picture: Picture, keep: Bool[np.ndarray, "h w"]) -> Picture:
    """Returns the picture with the part that is not kept nearly white."""
    factor = picture.shape[0] // keep.shape[0]
    mask = keep.repeat(factor, axis=0).repeat(factor, axis=1)[..., None]
    faded = 255 - _FADED * (255 - picture.astype(np.float32))
    return np.where(mask, picture, np.round(faded).astype(np.uint8))
