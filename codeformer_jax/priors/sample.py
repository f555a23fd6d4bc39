"""`codeformer-jax sample`: pictures sampled from a prior and written to files."""

import os
import re
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int32
from PIL import Image

from codeformer_jax.data.images import read_image
from codeformer_jax.nn.precision import products_in
from codeformer_jax.priors.kinds import SamplePlan
from codeformer_jax.priors.outputs import (
    Outputs,
    describe,
    plan_outputs,
    write_outputs,
)
from codeformer_jax.priors.prior import Prior, load_prior, sample_maps
from codeformer_jax.priors.sample_options import SampleOptions
from codeformer_jax.priors.sheet import Picture, make_sheet
from codeformer_jax.sampling import Sampler
from codeformer_jax.system import storage

_FADED = 0.25  # Contrast of the part of a picture that is not kept.

References = list[tuple[str, Picture]]


def sample_command(
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    options: SampleOptions,
) -> str:
    """Samples pictures and writes them; everything is checked before sampling.

    Args:
        checkpoint: see `load_prior`.
        output: the sheet; codes go to STEM.npz beside it, single pictures to the folder STEM.
        options: options of the call.

    Returns:
        A report.

    Raises:
        FileExistsError: if outputs exist and `force` is not set.
        ValueError, OSError: if something cannot be sampled, read or written.
    """
    pixels = None if options.size is None else _parse_size(options.size)
    outputs = plan_outputs(output, options.force)
    prior = load_prior(
        checkpoint,
        teacher=options.teacher,
        condition_teacher=options.condition_teacher,
        which=options.which,
    )
    plan = SamplePlan(
        number=options.number,
        size=_map_size(prior, pixels),
        seed=options.seed,
        sampler=Sampler(temperature=options.temperature, top_k=options.top_k, top_p=options.top_p),
        classes=_classes(prior, options.classes, options.number),
    )
    plan.sampler.check(prior.levels)
    with products_in(prior.precision):
        fields, references = read_inputs(prior, plan.size, options)
        plan = replace(plan, **fields)
        outputs.sheet.parent.mkdir(parents=True, exist_ok=True)
        folder = outputs.sheet.parent
        if not (storage.is_remote(folder) or os.access(folder, os.W_OK | os.X_OK)):
            raise OSError(f"cannot write into '{folder}'; give another -o")
        batch_size = options.batch_size or (8 if jax.default_backend() == "cpu" else 64)
        values = sample_maps(prior, plan, batch_size=batch_size)
        pictures = prior.pictures_of(values)
    title = _title(checkpoint, prior, plan)
    sheet = make_sheet(pictures, title=title, classes=plan.classes, references=references)
    given = {"checkpoint": checkpoint, "complete": options.complete, "keep": options.keep}
    stored = describe(prior, plan, values, given)
    write_outputs(outputs, sheet, pictures, stored, options.force)
    return _summary(outputs, pictures.shape, plan.size)


def _map_size(prior: Prior, pixels: tuple[int, int] | None) -> tuple[int, int]:
    """Returns the rows and columns of the maps to sample."""
    if pixels is None:
        return prior.map_size
    factor = prior.downsampling
    if any(side % factor for side in pixels):
        nearest = "x".join(str(max(1, round(side / factor)) * factor) for side in pixels)
        raise ValueError(
            f"--size {pixels[0]}x{pixels[1]} does not divide into codes of {factor} px; give "
            f"multiples of {factor}, such as {nearest}"
        )
    return pixels[0] // factor, pixels[1] // factor


def _classes(prior: Prior, given: str | None, number: int) -> tuple[int, ...] | None:
    """Returns a class for each sample, or None for a prior without classes."""
    if prior.kind.condition != "class":
        if given is not None:
            raise ValueError(f"--class {given}: this prior has no classes; leave it out")
        return None
    every = tuple(range(prior.module.classes))
    classes = every if given is None else _parse_classes(given) or every
    if unknown := sorted(set(classes) - set(every)):
        raise ValueError(
            f"class {', '.join(map(str, unknown))} is unknown; this prior has the classes 0 to "
            f"{every[-1]}"
        )
    if given is not None and number < len(classes):
        raise ValueError(
            f"-n {number} is fewer than the {len(classes)} classes given; raise it, or leave "
            "--class out"
        )
    # Evenly, with the samples of a class next to each other.
    return tuple(classes[index * len(classes) // number] for index in range(number))


def _parse_size(text: str) -> tuple[int, int]:
    """Returns height and width in pixels: '256x384' is (256, 384), '256' a square."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(size) < 1:
        raise ValueError(
            f"--size is {text!r}; expected height and width in pixels, such as 256x384, or one "
            "number for a square"
        )
    return size


def _parse_classes(text: str) -> tuple[int, ...] | None:
    """Returns classes: '3' is (3,), '0,3,7' is (0, 3, 7), 'all' is None."""
    if text == "all":
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"--class is {text!r}; expected a number, several such as 0,3,7, or all"
        ) from None


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
    match = re.fullmatch(r"(top|left)(?:-half|:(0?\.\d+))", part)
    if match is None:
        raise ValueError(
            f"--keep is {part!r}; expected top-half, left-half, or a share between 0 and 1 such as "
            "top:0.3 or left:0.3 (a code depends on those above and left of it)"
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


def _title(checkpoint: str | os.PathLike, prior: Prior, plan: SamplePlan) -> str:
    sampler, name = plan.sampler, os.path.basename(os.path.normpath(checkpoint))
    parts = [name if prior.step is None else f"{name} at step {prior.step}"]
    parts += [f"seed {plan.seed}", f"temperature {sampler.temperature:g}"]
    parts += [] if sampler.top_k is None else [f"top-k {sampler.top_k}"]
    parts += [] if sampler.top_p is None else [f"top-p {sampler.top_p:g}"]
    return ", ".join(parts)


def _summary(outputs: Outputs, shape: tuple[int, ...], map_size: tuple[int, int]) -> str:
    return (
        f"{shape[0]} samples of {shape[1]}x{shape[2]} px ({map_size[0]}x{map_size[1]} values) -> "
        f"{outputs.sheet}\ncodes -> {outputs.codes}\nsingle pictures -> {outputs.folder}{os.sep}"
    )
