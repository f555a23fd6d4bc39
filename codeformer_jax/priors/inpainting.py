"""Pictures that a prior is given: one to continue, or one whose codes are its condition."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32
from PIL import Image

from codeformer_jax.data.images import read_image
from codeformer_jax.priors.prior import Prior
from codeformer_jax.priors.settings import Keep
from codeformer_jax.priors.sheet import Picture

# Of what is not kept of a picture that is continued, this much is left visible.
_FADED = 0.25

References = list[tuple[str, Picture]]


def read_given(
    prior: Prior,
    size: tuple[int, int],
    complete: str | Path | None,
    part: Keep | None,
    condition: str | Path | None,
) -> tuple[dict[str, Any], References]:
    """Fields of an `Order` for maps of `size`, and pictures with captions that show them.

    Args:
        complete, part: a picture to continue, and what of it is kept.
        condition: a picture whose codes are the condition.

    Raises:
        UnreadableImage: a file that is no picture.
        ValueError: what does not fit the prior.
    """
    fields: dict[str, Any] = {}
    references: References = []
    if condition is not None or prior.condition == "codes":
        fields["condition"], picture = _condition(prior, condition, size)
        references.append(("condition", picture))
    if complete is not None:
        mask = part.mask(size)
        source = _read(complete, tuple(side * prior.downsampling for side in size))
        fields |= {"given": prior.values_of(source[None]), "keep": mask}
        references += [("source", source), ("kept", _faded(source, mask))]
    return fields, references


def _condition(
    prior: Prior, path: str | Path | None, map_size: tuple[int, int]
) -> tuple[Int32[np.ndarray, "..."], Picture]:
    """Codes of the condition, and its picture."""
    if prior.condition != "codes":
        raise ValueError("--condition: this prior has no condition of codes; leave it out")
    if path is None:
        raise ValueError(
            "this prior draws codes given those of a picture: give that as --condition IMAGE"
        )
    module, stage1 = prior.module, prior.condition_stage1
    window = module.map_size[0] * module.map_size[1]
    # A condition of so many codes as the map lies under it, and the window cuts both.
    side = stage1.module.image_size // stage1.module.downsampling
    size = map_size if module.condition_length == window else (side, side)
    if module.condition_length not in (window, side * side):
        raise ValueError(
            f"the condition's autoencoder makes {side}x{side} codes of a picture, and this prior "
            f"takes {module.condition_length}; give the one it was trained with as "
            "--condition-teacher"
        )
    picture = _read(path, tuple(n * stage1.module.downsampling for n in size))
    codes = stage1.encode(picture[None])[0]
    return (codes if module.condition_length == window else codes.reshape(-1)), picture


def _read(path: str | Path, size: tuple[int, int]) -> Picture:
    """A picture whose middle of these proportions is brought to `size`, height and width."""
    image = Image.fromarray(read_image(path).pixels)
    scale = min(image.height / size[0], image.width / size[1])
    height, width = (
        max(1, min(round(side * scale), most))
        for side, most in zip(size, (image.height, image.width), strict=True)
    )
    left, top = (image.width - width) // 2, (image.height - height) // 2
    image = image.crop((left, top, left + width, top + height))
    # As pictures are brought to size elsewhere: Lanczos down, bilinear up.
    method = Image.Resampling.LANCZOS if scale > 1 else Image.Resampling.BILINEAR
    return np.array(image if image.size == size[::-1] else image.resize(size[::-1], method))


def _faded(picture: Picture, keep: Bool[np.ndarray, "h w"]) -> Picture:
    """The picture, what is not kept nearly white."""
    factor = picture.shape[0] // keep.shape[0]
    mask = keep.repeat(factor, axis=0).repeat(factor, axis=1)[..., None]
    faded = 255 - _FADED * (255 - picture.astype(np.float32))
    return np.where(mask, picture, np.round(faded).astype(np.uint8))
