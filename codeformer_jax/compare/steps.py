"""Trace of a training step: losses, gradients and parameters in PyTorch's names."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from codeformer_jax.compare.record import describe_weights, made_by, torch_table
from codeformer_jax.compare.trace import Entry, Trace

Params = Mapping[str, Any]


def step_trace(
    losses: Mapping[str, Any],
    gradients: Mapping[str, Params],
    before: Mapping[str, Params],
    after: Mapping[str, Params],
) -> Trace:
    """Returns the trace of a training step; `trace_torch.record_step` writes the same.

    Args:
        losses: {name: scalar}.
        gradients: {network: tree of gradients}. The names of the first network's parameters are
            PyTorch's; those of another network follow its own name and a dot, such as
            'discriminator.main.0.weight'.
        before, after: {network: parameters} before and after the step. Those that have no gradient
            are left out.
    """
    entries = [Entry.whole("loss", name, np.float32(value)) for name, value in losses.items()]
    tables = {"gradient": _tables(gradients), "parameter": _tables(after)}
    known = tables["gradient"]
    for kind, table in tables.items():
        entries += [Entry.whole(kind, name, table[name]) for name in known]
    weights = {name: array for name, array in _tables(before).items() if name in known}
    return Trace(
        tuple(entries),
        made_by(),
        network=next(iter(gradients)),
        weights=describe_weights(weights),
        objective="step",
    )


def _tables(trees: Mapping[str, Params]) -> dict[str, np.ndarray]:
    """Returns {name: array} of the parameters of all networks."""
    found: dict[str, np.ndarray] = {}
    for network, params in trees.items():
        prefix = f"{network}." if found else ""
        table = torch_table(network, {"params": params})
        found |= {prefix + name: array for name, array in table.items()}
    return found
