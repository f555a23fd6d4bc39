"""`codeformer-jax sample`: what was asked for is checked, drawn, shown and stored."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax

from codeformer_jax.nn import GPT
from codeformer_jax.nn.precision import products_in
from codeformer_jax.priors.inpainting import read_given
from codeformer_jax.priors.outputs import (
    Outputs,
    describe,
    make_folder,
    plan_outputs,
    write_outputs,
)
from codeformer_jax.priors.pictures import Order, check_order, draw_maps
from codeformer_jax.priors.prior import Pictures, Prior, load_prior
from codeformer_jax.priors.settings import Keep, parse_classes, parse_keep, parse_size, spread
from codeformer_jax.priors.sheet import make_sheet
from codeformer_jax.sampling import Draw


@dataclass(frozen=True)
class Request:
    """What is asked for, as on the command line.

    Attributes:
        teacher, condition_teacher, which: see `load_prior`.
        classes: see `parse_classes`; None spreads the samples over all classes.
        number: samples.
        size: see `parse_size`; None is the size of training.
        temperature, top_k, top_p: see `Draw`.
        seed: sample i depends on it and on i alone, whatever the batch.
        batch_size: maps at once; None is 8 on the CPU, 64 on an accelerator.
        complete, keep: a picture of which a part is kept, see `parse_keep`; 'top-half' by default.
        condition: a picture whose codes are the condition.
        each: whether single pictures are written.
        force: replace what exists.
    """

    teacher: str | Path | None = None
    condition_teacher: str | Path | None = None
    which: str | int = "latest"
    classes: str | None = None
    number: int = 16
    size: str | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    batch_size: int | None = None
    complete: str | Path | None = None
    keep: str | None = None
    condition: str | Path | None = None
    each: bool = True
    force: bool = False


def sample_command(
    checkpoint: str | Path,
    output: str | Path,
    request: Request,
    *,
    progress: bool | None = None,
) -> str:
    """Draws samples and writes them; everything that can be wrong is checked before drawing.

    Args:
        checkpoint: see `load_prior`.
        output: the sheet; the codes lie beside it as STEM.npz, single pictures in the folder STEM.
        progress: see `draw_maps`.

    Returns:
        What was written, in words.

    Raises:
        FileExistsError: outputs exist and `force` is not given.
        ValueError, OSError: what cannot be drawn, read or written, and what to change.
    """
    # What needs no network is checked before one is loaded.
    Draw(temperature=request.temperature, top_p=request.top_p).check(1)
    pixels = None if request.size is None else parse_size(request.size)
    part = _parse_part(request)
    _check_numbers(request)
    outputs = plan_outputs(Path(output), request.each, request.force)
    prior = load_prior(
        checkpoint,
        teacher=request.teacher,
        condition_teacher=request.condition_teacher,
        which=request.which,
    )
    order = _order(prior, request, pixels)
    check_order(prior, order)
    with products_in(prior.precision):
        return _make(prior, order, checkpoint, outputs, request, part, progress)


def _make(
    prior: Prior,
    order: Order,
    checkpoint: str | Path,
    outputs: Outputs,
    request: Request,
    part: Keep | None,
    progress: bool | None,
) -> str:
    """Draws the samples of an order and writes them; returns what was written, in words."""
    fields, references = read_given(prior, order.size, request.complete, part, request.condition)
    order = replace(order, **fields)
    make_folder(outputs.sheet.parent)
    batch_size = request.batch_size or (8 if jax.default_backend() == "cpu" else 64)
    values = draw_maps(prior, order, batch_size=batch_size, progress=progress)
    pictures = prior.pictures_of(values)
    title = _title(checkpoint, prior, order)
    sheet = make_sheet(pictures, title=title, classes=order.classes, references=references)
    given = {"checkpoint": checkpoint, "complete": request.complete, "keep": request.keep}
    write_outputs(outputs, sheet, pictures, describe(prior, order, values, given), request.force)
    return _summary(outputs, pictures, order.size)


def _parse_part(request: Request) -> Keep | None:
    if request.complete is None:
        if request.keep is not None:
            raise ValueError("--keep says which part of a picture stands: give it by --complete")
        return None
    return parse_keep(request.keep or "top-half")


def _check_numbers(request: Request) -> None:
    if request.number < 1:
        raise ValueError(f"-n is {request.number}; expected at least 1 sample")
    if not 0 <= request.seed < 2**32:
        raise ValueError(f"--seed is {request.seed}; expected 0 to {2**32 - 1}")
    if request.batch_size is not None and request.batch_size < 1:
        raise ValueError(f"--batch-size is {request.batch_size}; expected at least 1")


def _order(prior: Prior, request: Request, pixels: tuple[int, int] | None) -> Order:
    how = Draw(temperature=request.temperature, top_k=request.top_k, top_p=request.top_p)
    return Order(
        number=request.number,
        size=_map_size(prior, pixels),
        seed=request.seed,
        how=how,
        classes=_classes(prior, request.classes, request.number),
    )


def _map_size(prior: Prior, pixels: tuple[int, int] | None) -> tuple[int, int]:
    """Rows and columns of the maps to draw."""
    if pixels is None:
        return prior.map_size
    factor, trained = prior.downsampling, prior.map_size
    if any(side % factor for side in pixels):
        nearest = "x".join(str(max(1, round(side / factor)) * factor) for side in pixels)
        raise ValueError(
            f"--size {pixels[0]}x{pixels[1]} does not divide into codes of {factor} px; give "
            f"multiples of {factor}, such as {nearest}"
        )
    size = (pixels[0] // factor, pixels[1] // factor)
    if isinstance(prior.module, GPT) and (size[0] < trained[0] or size[1] < trained[1]):
        least = "x".join(str(side * factor) for side in trained)
        raise ValueError(
            f"--size {pixels[0]}x{pixels[1]} (height x width) is smaller than the {least} px of "
            "this transformer's maps; give at least that, and cut the pictures"
        )
    return size


def _classes(prior: Prior, given: str | None, number: int) -> tuple[int, ...] | None:
    """A class for each sample, or None for a prior without classes."""
    if prior.condition != "class":
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
            "--class out for samples of some of all classes"
        )
    return spread(classes, number)


def _title(checkpoint: str | Path, prior: Prior, order: Order) -> str:
    how = order.how
    parts = [f"{Path(checkpoint).name}" + ("" if prior.step is None else f" at step {prior.step}")]
    parts += [f"seed {order.seed}", f"temperature {how.temperature:g}"]
    parts += [] if how.top_k is None else [f"top-k {how.top_k}"]
    parts += [] if how.top_p is None else [f"top-p {how.top_p:g}"]
    return ", ".join(parts)


def _summary(outputs: Outputs, pictures: Pictures, map_size: Sequence[int]) -> str:
    number, height, width = pictures.shape[:3]
    lines = [
        f"{number} samples of {height}x{width} px ({map_size[0]}x{map_size[1]} values) -> "
        f"{outputs.sheet}",
        f"codes -> {outputs.codes}",
    ]
    if outputs.folder is not None:
        lines.append(f"single pictures -> {outputs.folder}{os.sep}")
    return "\n".join(lines)
