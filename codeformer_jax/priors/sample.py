"""`codeformer-jax sample`: pictures sampled from a prior and written to files."""

import os
import re
from dataclasses import replace

import jax

from codeformer_jax.nn.precision import products_in
from codeformer_jax.priors.inpainting import read_inputs
from codeformer_jax.priors.kinds import SamplePlan
from codeformer_jax.priors.outputs import (
    Outputs,
    describe,
    make_folder,
    plan_outputs,
    write_outputs,
)
from codeformer_jax.priors.prior import Prior, check_plan, load_prior, sample_maps
from codeformer_jax.priors.sample_options import SampleOptions
from codeformer_jax.priors.sheet import make_sheet
from codeformer_jax.sampling import Sampler


def sample_command(
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    options: SampleOptions,
    *,
    progress: bool | None = None,
) -> str:
    """Samples pictures and writes them; everything is checked before sampling.

    Args:
        checkpoint: see `load_prior`.
        output: the sheet; codes go to STEM.npz beside it, single pictures to the folder STEM.
        options: options of the call.
        progress: see `sample_maps`.

    Returns:
        A report.

    Raises:
        FileExistsError: if outputs exist and `force` is not set.
        ValueError, OSError: if something cannot be sampled, read or written.
    """
    # What needs no network is checked before one is loaded.
    Sampler(temperature=options.temperature, top_p=options.top_p).check(1)
    pixels = None if options.size is None else parse_size(options.size)
    outputs = plan_outputs(output, options.each, options.force)
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
    check_plan(prior, plan)
    with products_in(prior.precision):
        fields, references = read_inputs(prior, plan.size, options)
        plan = replace(plan, **fields)
        make_folder(outputs.sheet.parent)
        batch_size = options.batch_size or (8 if jax.default_backend() == "cpu" else 64)
        values = sample_maps(prior, plan, batch_size=batch_size, progress=progress)
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
    factor, smallest = prior.downsampling, prior.kind.smallest
    if any(side % factor for side in pixels):
        nearest = "x".join(str(max(1, round(side / factor)) * factor) for side in pixels)
        raise ValueError(
            f"--size {pixels[0]}x{pixels[1]} does not divide into codes of {factor} px; give "
            f"multiples of {factor}, such as {nearest}"
        )
    size = (pixels[0] // factor, pixels[1] // factor)
    if size[0] < smallest[0] or size[1] < smallest[1]:
        least = "x".join(str(side * factor) for side in smallest)
        raise ValueError(
            f"--size {pixels[0]}x{pixels[1]} (height x width) is smaller than the {least} px of "
            "this prior's maps; give at least that, and cut the pictures"
        )
    return size


def _classes(prior: Prior, given: str | None, number: int) -> tuple[int, ...] | None:
    """Returns a class for each sample, or None for a prior without classes."""
    if prior.kind.condition != "class":
        if given is not None:
            raise ValueError(f"--class {given}: this prior has no classes; leave it out")
        return None
    every = tuple(range(prior.module.classes))
    if given is None:
        return spread(every, number)
    classes = parse_classes(given) or every
    if number < len(classes):
        raise ValueError(
            f"-n {number} is fewer than the {len(classes)} classes given; raise it, or leave "
            "--class out"
        )
    return spread(classes, number)


def parse_size(text: str) -> tuple[int, int]:
    """Parses a size: '256x384' is (256, 384), height and width in pixels; '256' is a square.

    Raises:
        ValueError: if the text is anything else.
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(size) < 1:
        raise ValueError(
            f"--size is {text!r}; expected height and width in pixels, such as 256x384, or one "
            "number for a square"
        )
    return size


def parse_classes(text: str) -> tuple[int, ...] | None:
    """Parses classes: '3' is (3,), '0,3,7' is (0, 3, 7), 'all' is None.

    Raises:
        ValueError: if the text is anything else.
    """
    if text == "all":
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"--class is {text!r}; expected a number, several such as 0,3,7, or all"
        ) from None


def spread(classes: tuple[int, ...], number: int) -> tuple[int, ...]:
    """Spreads samples evenly over classes.

    Args:
        classes: the classes.
        number: number of samples.

    Returns:
        One class per sample; samples of a class follow each other.
    """
    return tuple(classes[index * len(classes) // number] for index in range(number))


def _title(checkpoint: str | os.PathLike, prior: Prior, plan: SamplePlan) -> str:
    sampler, name = plan.sampler, os.path.basename(os.path.normpath(checkpoint))
    parts = [name if prior.step is None else f"{name} at step {prior.step}"]
    parts += [f"seed {plan.seed}", f"temperature {sampler.temperature:g}"]
    parts += [] if sampler.top_k is None else [f"top-k {sampler.top_k}"]
    parts += [] if sampler.top_p is None else [f"top-p {sampler.top_p:g}"]
    return ", ".join(parts)


def _summary(outputs: Outputs, shape: tuple[int, ...], map_size: tuple[int, int]) -> str:
    lines = [
        f"{shape[0]} samples of {shape[1]}x{shape[2]} px ({map_size[0]}x{map_size[1]} values) -> "
        f"{outputs.sheet}",
        f"codes -> {outputs.codes}",
    ]
    if outputs.folder is not None:
        lines.append(f"single pictures -> {outputs.folder}{os.sep}")
    return "\n".join(lines)
