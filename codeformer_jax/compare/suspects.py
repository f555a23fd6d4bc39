"""Usual suspects: explanations of the first layer that differs, each tried on that layer alone."""

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from codeformer_jax.compare.layer import find_layer
from codeformer_jax.compare.match import Pair
from codeformer_jax.compare.record import torch_table
from codeformer_jax.compare.rows import aligned
from codeformer_jax.compare.trace import Entry, Trace, TraceError
from codeformer_jax.compare.variations import variations

# An explanation that leaves more than this share of the difference is not worth a line.
_WORTH_A_LINE = 0.5


@dataclasses.dataclass(frozen=True)
class Suspect:
    """An explanation that was tried.

    Attributes:
        name: short name, such as 'transposed kernel'.
        detail: the form that was tried, such as 'rows and columns'.
        relative_l2: difference of the layer that is left.
        vanishes: whether that is within the tolerance.
    """

    name: str
    detail: str
    relative_l2: float
    vanishes: bool

    def __str__(self) -> str:
        left = "the difference vanishes" if self.vanishes else "some of the difference is left"
        return f"{self.name} ({self.detail}): {left}, relative L2 {self.relative_l2:.1e}"


def try_suspects(
    a: Trace, b: Trace, found: Pair, difference: float, tolerance: float
) -> list[Suspect]:
    """Tries explanations of the first difference.

    Args:
        a, b: the traces. One of them needs `Trace.rerun`.
        found: the first entries that differ.
        difference: their relative L2 difference.
        tolerance: relative L2 difference up to which one counts as vanished.

    Returns:
        The explanations that leave less than half of the difference, best first.

    Raises:
        TraceError: the network gives other values than its trace has.
    """
    own, other, trace = found.ours, found.theirs, a
    if a.rerun is None:
        own, other, trace = found.theirs, found.ours, b
    rerun, tried = trace.rerun, []
    if rerun is None:
        return []
    wide, precision = (trace.made_by.get(what) for what in ("dtype", "precision"))
    precision = None if precision == "default" else precision
    with (
        jax.enable_x64(wide == "float64"),
        jax.default_matmul_precision(precision),
        # What a variation mixes is not the network's own choice.
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        outputs = (
            _buffers(rerun, own)
            if own.kind == "buffer"
            else _outputs(rerun, own, other, difference)
        )
        for name, detail, array in outputs:
            left = _relative(*_met(array, own, other))
            if left <= max(tolerance, _WORTH_A_LINE * difference):
                tried.append(Suspect(name, detail, left, left <= tolerance))
    return sorted(tried, key=lambda suspect: suspect.relative_l2)[:5]


def _biased(own: Entry, other: Entry) -> np.ndarray:
    """Returns own values, shifted so that every feature has the other side's mean."""
    x, y, _ = aligned(own, other)
    if x is None or x.ndim < 2:
        return own.array
    features = 1 if x.ndim == 4 else x.ndim - 1
    axes = tuple(axis for axis in range(x.ndim) if axis != features)
    shift = np.mean(y.astype(np.float64) - x, axis=axes, keepdims=True)
    return x + shift


def _outputs(
    rerun: Any, own: Entry, other: Entry, difference: float
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields name, detail and output of every variation of the layer that made an entry."""
    layer = find_layer(rerun, own)
    if layer is None:
        return
    now = layer.as_stored(layer.apply(), own.stride)
    if _relative(now, own.array) > _WORTH_A_LINE * difference:
        raise TraceError("the network gives other values than its trace; record the trace again")
    if "bias" not in layer.params or not np.any(np.asarray(layer.params["bias"])):
        yield "missing bias", "this side adds none", _biased(own, other)
    for name, detail, compute in variations(layer):
        try:
            yield name, detail, layer.as_stored(compute(), other.stride)
        except (TypeError, ValueError) as error:  # A variation that this layer's shapes exclude.
            logging.debug("%s (%s) was not tried: %s", name, detail, error)


def _buffers(rerun: Any, own: Entry) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields other conventions of BatchNorm's running statistics.

    Flax: momentum * old + (1 - momentum) * new; PyTorch has the weights the other way round.
    """
    before = torch_table(rerun.network, {"batch_stats": rerun.variables["batch_stats"]})[own.name]
    module, _, leaf = own.name.rpartition(".")
    layer = find_layer(rerun, dataclasses.replace(own, kind="activation", name=module))
    momentum = getattr(getattr(layer, "module", None), "momentum", None)
    if momentum is None or layer is None:
        return
    batch = (own.array - momentum * before) / (1 - momentum)
    count = layer.x.size // layer.x.shape[-1]
    unbiased = batch * count / (count - 1)
    swapped = (1 - momentum) * before + momentum * batch
    yield "momentum convention", f"{1 - momentum:g} of the old statistics there", swapped
    if leaf == "running_var":
        yield (
            "unbiased variance",
            f"divided by n - 1 = {count - 1} there, by n here",
            momentum * before + (1 - momentum) * unbiased,
        )
        yield (
            "momentum convention",
            f"{1 - momentum:g} of the old, unbiased variance there",
            (1 - momentum) * before + momentum * unbiased,
        )
    yield "running statistics not updated", "evaluation mode there", before


def _met(array: np.ndarray, own: Entry, other: Entry) -> tuple[np.ndarray, np.ndarray]:
    """Returns a variation's output and the other trace's array, in one layout if they have one."""
    if array.shape != other.array.shape and own.shape != other.shape:
        x, y, _ = aligned(dataclasses.replace(own, array=array, stride=other.stride), other)
        if x is not None:
            return x, y
    return array, other.array


def _relative(x: np.ndarray, y: np.ndarray) -> float:
    if x.shape != y.shape:
        return np.inf
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    norm = np.linalg.norm(y.reshape(-1))
    return float(np.linalg.norm((x - y).reshape(-1)) / norm) if norm else np.inf
