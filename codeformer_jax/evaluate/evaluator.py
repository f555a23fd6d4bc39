"""Runs a network over a set of images and scores what it makes of them.

An image's degradation is the one stored beside it or, by the seed and its place in the source,
the same in any batch, so that anyone can reproduce the scores of a single image.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import tqdm

from codeformer_jax.data.examples import Element, Source
from codeformer_jax.degrade import degrade
from codeformer_jax.evaluate.collect import Collector
from codeformer_jax.evaluate.evaluation import Evaluation
from codeformer_jax.evaluate.measure import DegradeFn, Networks, measure
from codeformer_jax.evaluate.values import json_values
from codeformer_jax.nn import VQGAN, VQVAE, Autoencoder, CodeFormer
from codeformer_jax.ops.random import make_key

Variables = Mapping[str, Any]


def evaluate(
    module: Any,
    variables: Variables,
    images_source: Source,
    *,
    teacher: tuple[VQGAN, Variables] | None = None,
    recipe: Any = None,
    seed: int = 0,
    weights: Sequence[int | float] = (0.0, 0.5, 1.0),
    adain: bool = True,
    batch_size: int = 8,
    lpips: tuple[Any, Variables] | None = None,
    limit: int | None = None,
    progress: bool = True,
    degrade_fn: DegradeFn = degrade,
) -> Evaluation:
    """Scores a CodeFormer's restorations, or an autoencoder's reconstructions, of clean images.

    Args:
        module, variables: a `CodeFormer`, or a `VQGAN` or `VQVAE`, whose inputs are not degraded.
        images_source: clean images, see `Source`; where elements also have `degraded`, of the same
            shape, these are restored as they are: give no recipe.
        teacher: the VQGAN whose codes of the clean images are the truth, and its variables.
        recipe: a `codeformer_jax.degrade.Recipe`, or what else `degrade_fn` takes.
        seed: of the degradation.
        weights: fidelity weights w; the gain at the largest decides which images are worst.
        adain: see `CodeFormer`.
        batch_size: images per call; it changes speed and memory only.
        lpips: an `nn.LPIPS` and its variables, for one more column.
        limit: evaluate the first so many images only.
        progress: show a bar on stderr.
        degrade_fn: `(images [b, h, w, 3] in [0, 1], keys [b], recipe) -> images`.

    Raises:
        TypeError: a module of another kind.
        ValueError: no images, images of different sizes or of one the network does not divide, a
            recipe too many or too few, a teacher with other codes, an option out of range, or
            output that is not finite.
    """
    weights = sorted(float(w) for w in weights) if isinstance(module, CodeFormer) else []
    _check_counts(batch_size=batch_size, limit=limit)
    _check_networks(module, teacher, weights)
    teacher, lpips = teacher or (None, None), lpips or (None, None)
    arguments = {
        "networks": Networks(module, teacher[0], lpips[0]),
        "variables": (variables, teacher[1], lpips[1]),
        "weights": np.array(weights, np.float32),
        "key": make_key(seed),
        "recipe": recipe,
        "adain": adain,
        "degrade_fn": degrade_fn,
    }
    collector = Collector(_rows(weights, teacher[0] is not None), module.codebook_size)
    number = len(images_source) if limit is None else min(limit, len(images_source))
    size = _run(arguments, collector, images_source, number, batch_size, progress)
    settings = {"images": len(collector), "skipped": number - len(collector), "image_size": size}
    if weights:
        drawn = {} if recipe is None else {"seed": seed, "degradation": json_values(recipe)}
        settings |= {"weights": weights, "adain": adain, **drawn}
    return collector.finish(settings | _hyperparameters(network=module, teacher=teacher[0]))


class _Batch(NamedTuple):
    images: np.ndarray
    degraded: np.ndarray | None
    indices: np.ndarray
    names: list[str]  # Shorter than the images where those are padded.


def _run(
    arguments: Mapping[str, Any],
    collector: Collector,
    source: Source,
    number: int,
    batch_size: int,
    progress: bool,
) -> list[int]:
    """Measures the first `number` images into the collector; returns their height and width."""
    if number == 0:
        raise ValueError("the source has no images to evaluate; give it at least one")
    pending = None
    with tqdm.tqdm(total=number, desc="evaluate", unit="image", disable=not progress) as bar:

        def collect(batch, measured):
            collector.add(batch.names, batch.indices, measured)
            bar.update(len(batch.names))

        for batch in _batches(source, number, batch_size, arguments["networks"].module):
            _check_recipe(batch, arguments)
            measured = measure(batch.images, batch.degraded, batch.indices, **arguments)
            # The device works on this batch while the host takes in the last and reads the next.
            if pending is not None:
                collect(*pending)
            pending = (batch, measured)
        if pending is None:
            raise ValueError(f"none of the {number} images of the source could be read")
        collect(*pending)
    return list(pending[0].images.shape[1:3])


def _batches(source: Source, number: int, batch_size: int, module: Autoencoder) -> Iterator[_Batch]:
    """Batches of one size; the last is padded with copies of its last image."""
    shape, elements = None, []
    for index in range(number):
        element = dict(source[index])
        if int(element.setdefault("index", index)) == index:
            for key in [key for key in ("image", "degraded") if key in element]:
                element[key] = np.asarray(element[key])
                _check_image(element[key], str(element["name"]), shape, module)
                shape = element[key].shape
            elements.append(element)
        if len(elements) == batch_size or (elements and index == number - 1):
            yield _stacked(elements, batch_size)
            elements = []


def _stacked(elements: list[Element], batch_size: int) -> _Batch:
    names = [str(element["name"]) for element in elements]
    padded = elements + elements[-1:] * (batch_size - len(elements))
    degraded = [element["degraded"] for element in padded if "degraded" in element]
    if degraded and len(degraded) < len(padded):
        raise ValueError(f"of {names} some have a degraded image and some have none")
    return _Batch(
        np.stack([element["image"] for element in padded]),
        np.stack(degraded) if degraded else None,
        np.array([element["index"] for element in padded], np.int32),
        names,
    )


def _rows(weights: Sequence[float], has_teacher: bool) -> list[str]:
    if not weights:
        return ["reconstruction"]
    return ["input", *(f"w={w:g}" for w in weights), *(["teacher"] if has_teacher else [])]


def _check_image(image: np.ndarray, name: str, shape: tuple[int, ...] | None, module: Autoencoder):
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"'{name}' is {image.dtype} {image.shape}; expected uint8 [h, w, 3] (RGB)")
    size = f"'{name}' has {image.shape[0]}x{image.shape[1]} px"
    if shape is not None and image.shape != shape:
        raise ValueError(
            f"{size}, but the images before it {shape[0]}x{shape[1]}; resize them to one size"
        )
    if any(side % module.downsampling for side in image.shape[:2]):
        raise ValueError(
            f"{size}, but this network needs sides that are multiples of {module.downsampling}; "
            f"resize the images, for example to {module.image_size} px"
        )


def _check_counts(**counts: int | None):
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _check_recipe(batch: _Batch, arguments: Mapping[str, Any]):
    restores = isinstance(arguments["networks"].module, CodeFormer)
    given = arguments["recipe"] is not None
    if given and batch.degraded is not None:
        raise ValueError("these images are degraded already; give no recipe, or clean images alone")
    if restores and not given and batch.degraded is None:
        raise ValueError("give the recipe by which the images are degraded before restoration")


def _check_networks(module: Any, teacher: tuple[VQGAN, Variables] | None, weights: Sequence[float]):
    if not isinstance(module, VQGAN | VQVAE):
        raise TypeError(
            f"cannot evaluate a {type(module).__name__}; expected CodeFormer, VQGAN or VQVAE"
        )
    if not isinstance(module, CodeFormer):
        if teacher is not None:
            raise ValueError(
                "an autoencoder's own codes are the truth; give a teacher to CodeFormer only"
            )
        return
    sane = all(math.isfinite(w) and w >= 0 for w in weights)
    if not weights or not sane or len({f"{w:g}" for w in weights}) < len(weights):
        raise ValueError(f"weights must be different numbers from 0 up, got {list(weights)}")
    for name in ("codebook_size", "downsampling") if teacher else ():
        ours, theirs = getattr(module, name), getattr(teacher[0], name)
        if ours != theirs:
            raise ValueError(
                f"the teacher has {name}={theirs}, the network {ours}, so that their codes cannot "
                "be compared; give the VQGAN that this network was trained with"
            )


def _hyperparameters(**modules: Autoencoder | None) -> dict[str, Any]:
    return {name: _fields(module) for name, module in modules.items() if module is not None}


def _fields(module: Autoencoder) -> dict[str, Any]:
    """The network's class and fields as JSON values."""
    names = [field.name for field in dataclasses.fields(module)]
    fields = {name: getattr(module, name) for name in names if name not in ("parent", "name")}
    fields["dtype"] = jnp.dtype(fields["dtype"]).name
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
    return {"class": type(module).__name__, **values}
