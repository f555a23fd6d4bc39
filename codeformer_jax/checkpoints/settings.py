"""Comparison of the config of a workdir with the one that a run is given."""

import json
import logging
from pathlib import Path
from typing import Any

import ml_collections

# A checkpoint of another value of these is another model.
MODEL_SECTIONS = ("task", "model", "codeformer", "discriminator", "prior_of", "pixelcnn", "gpt")
# But for these, which leave its arrays what they are: how it is computed, when its codes restart,
# how Gumbel noise and restored pictures are used.
COMPUTATION = (
    *("dtype", "precision", "remat", "restart_below", "dropout"),
    *("straight_through", "kl_weight", "temperature", "temperature_final", "temperature_steps"),
    *("keep_gray", "keep_known"),
)


def compare_configs(
    old: ml_collections.ConfigDict, new: ml_collections.ConfigDict, workdir: Path
) -> None:
    """Logs what changed since the run began; raises where it would be another model."""
    old, new = _flat(json.loads(old.to_json())), _flat(json.loads(new.to_json()))
    changed = {
        key: (old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }
    lines = [f"  {key}: {before} -> {after}" for key, (before, after) in changed.items()]
    if any(_another_model(key) for key in changed):
        raise ValueError(
            f"{workdir} holds a run of another model; its settings and the given ones:\n"
            + "\n".join(lines)
            + "\nUse another --workdir, or the settings that it was started with."
        )
    if changed:
        logging.warning("settings changed since this run began:\n%s", "\n".join(lines))


def _another_model(key: str) -> bool:
    parts = key.split(".")
    return parts[0] in MODEL_SECTIONS and parts[-1] not in COMPUTATION


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
