"""Evaluation of a network on a set of images.

An image's degradation is either stored beside it or drawn from the seed and its place in the
source. It is the same in any batch, so the scores of a single image can be reproduced.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm

from codeformer_jax.convert import networks_of_role, role_of
from codeformer_jax.convert.networks import module_fields
from codeformer_jax.data.examples import Element, Source
from codeformer_jax.degrade import degrade
from codeformer_jax.evaluate.collect import Collector
from codeformer_jax.evaluate.evaluation import Evaluation, json_values
from codeformer_jax.evaluate.measure import DegradeFn, Networks, measure
from codeformer_jax.metrics import choose
from codeformer_jax.system.keys import make_key

Variables = Mapping[str, Any]

# Roles of networks (`convert.Network`) whose pictures can be compared with the truth.
EVALUATED_ROLES = ("restorer", "autoencoder")


def evaluate(
    module: Any,
    variables: Variables,
    images_source: Source,
    *,
    teacher: tuple[Any, Variables] | None = None,
    recipe: Any = None,
    seed: int = 0,
    weights: Sequence[int | float] = (0.0, 0.5, 1.0),
    adain: bool = True,
    batch_size: int = 8,
    lpips: tuple[Any, Variables] | None = None,
    st_lpips: tuple[Any, Variables] | None = None,
    metrics: Sequence[str] | None = None,
    limit: int | None = None,
    degrade_fn: DegradeFn = degrade,
) -> Evaluation:
    """Scores a network's restorations or reconstructions of clean images; terminals show a bar.

    Args:
        module: a 'restorer', or an 'autoencoder', whose inputs stay clean; see `convert.Network`.
        variables: variables of the module.
        images_source: clean images. Elements that have `degraded` are restored from it.
        teacher: autoencoder whose codes of the clean images are the truth, and its variables.
        recipe: a `degrade.Recipe`, or what else `degrade_fn` takes; None for degraded elements.
        seed: seed of the degradation.
        weights: fidelity weights w; the largest decides which images are worst.
        adain: see `CodeFormer`.
        batch_size: images per call; changes speed and memory only.
        lpips, st_lpips: an `nn.LPIPS` and an `nn.STLPIPS`, each with its variables.
        metrics: names from `metrics.METRICS`; None for all whose needs are given.
        limit: largest number of images.
        degrade_fn: `(images [b, h, w, 3] in [0, 1], keys [b], recipe) -> images`.

    Raises:
        TypeError: a module of another role.
        ValueError: no images, images that do not fit the network or each other, a recipe or metric
            that does not fit, a teacher with other codes, a bad option, or non-finite output.
    """
    restores = role_of(module) == "restorer"
    weights = sorted(float(w) for w in weights) if restores else []
    _check_networks(module, teacher, weights)
    codes = getattr(module, "codebook_size", None)  # Your own restorer may have none.
    given = {"target_codes": teacher, "lpips": lpips, "st_lpips": st_lpips}
    arguments = {
        "networks": Networks(module, *(pair and pair[0] for pair in given.values())),
        "variables": (variables, *(pair and pair[1] for pair in given.values())),
        "restores": restores,
        "metrics": choose(metrics, _inputs(codes is not None, restores, given)),
        "weights": np.array(weights, np.float32),
        "key": make_key(seed),
        "recipe": recipe,
        "adain": adain,
        "degrade_fn": degrade_fn,
    }
    collector = Collector(_rows(weights, teacher is not None), arguments["metrics"], codes)
    number = len(images_source) if limit is None else min(limit, len(images_source))
    size = _run(arguments, collector, images_source, number, batch_size)
    found = {"images": len(collector), "skipped": number - len(collector), "image_size": size}
    return collector.finish(found | _settings(arguments, weights, seed))


def _inputs(codes: bool, restores: bool, given: Mapping[str, Any]) -> list[str]:
    """Returns the names from `metrics.INPUTS` that an evaluation has."""
    found = {"codes": codes, "logits": codes and restores}
    found |= {name: network is not None for name, network in given.items()}
    return ["pictures", "truth", *(name for name, there in found.items() if there)]


def _settings(arguments: Mapping[str, Any], weights: list[float], seed: int) -> dict[str, Any]:
    """Returns everything but the images that the scores depend on, as JSON values."""
    settings = {"weights": weights, "adain": arguments["adain"]} if weights else {}
    if weights and arguments["recipe"] is not None:
        settings |= {"seed": seed, "degradation": json_values(arguments["recipe"])}
    networks = arguments["networks"]
    for name, module in (("network", networks.module), ("teacher", networks.teacher)):
        if module is not None:
            settings[name] = {"class": type(module).__name__, **module_fields(module)}
    return settings


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
) -> list[int]:
    """Measures the first `number` images into the collector; returns their height and width."""
    if number == 0:
        raise ValueError("the source has no images to evaluate; give it at least one")
    pending = None
    with tqdm.tqdm(total=number, desc="evaluate", unit="image", disable=None) as bar:

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


def _batches(source: Source, number: int, batch_size: int, module: Any) -> Iterator[_Batch]:
    """Yields batches of one size; the last is padded with copies of its last image."""
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
        raise ValueError(
            f"{names}: some have a degraded image and some do not; give it for all or for none"
        )
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


def _check_image(image: np.ndarray, name: str, shape: tuple[int, ...] | None, module: Any):
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"'{name}' is {image.dtype} {image.shape}; expected uint8 [h, w, 3] (RGB)")
    size = f"'{name}' has {image.shape[0]}x{image.shape[1]} px"
    if shape is not None and image.shape != shape:
        raise ValueError(
            f"{size}, but the images before it {shape[0]}x{shape[1]}; resize them to one size"
        )
    factor = getattr(module, "downsampling", 1)
    if any(side % factor for side in image.shape[:2]):
        raise ValueError(
            f"{size}, but this network needs sides that are multiples of {factor}; "
            f"resize the images, for example to {module.image_size} px"
        )


def _check_recipe(batch: _Batch, arguments: Mapping[str, Any]):
    given = arguments["recipe"] is not None
    if given and batch.degraded is not None:
        raise ValueError(
            "recipe: these images are degraded already; leave it out, or give clean images"
        )
    if arguments["restores"] and not given and batch.degraded is None:
        raise ValueError(
            "recipe: a restorer needs degraded images; give the recipe that degrades them"
        )


def _check_networks(module: Any, teacher: tuple[Any, Variables] | None, weights: Sequence[float]):
    role = role_of(module)
    if role not in EVALUATED_ROLES:
        raise TypeError(
            f"cannot evaluate a {type(module).__name__}; expected one of "
            f"{', '.join(networks_of_role(*EVALUATED_ROLES))}"
        )
    if role == "autoencoder":
        if teacher is not None:
            raise ValueError(
                "teacher: an autoencoder's own codes are the truth; give it to a restorer only"
            )
        return
    sane = all(math.isfinite(w) and w >= 0 for w in weights)
    if not weights or not sane or len({f"{w:g}" for w in weights}) < len(weights):
        raise ValueError(f"weights must be different numbers from 0 up, got {list(weights)}")
    for name in ("codebook_size", "downsampling") if teacher else ():
        ours, theirs = getattr(module, name, None), getattr(teacher[0], name)
        if ours != theirs:
            raise ValueError(
                f"the teacher has {name}={theirs}, the network {ours}, so that their codes cannot "
                "be compared; give the VQGAN that this network was trained with, or none"
            )
