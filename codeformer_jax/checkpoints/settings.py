"""Comparison of a workdir's config with the config of a resumed run."""

import json
import logging
from pathlib import Path
from typing import Any

import ml_collections

# Changing one of these sections makes another model,
MODEL_SECTIONS = ("task", "model", "codeformer", "discriminator", "prior_of", "pixelcnn", "gpt")
# except for these settings, which leave its arrays as they are.
COMPUTATION = (
    *("dtype", "precision", "remat", "restart_below", "dropout"),
    *("straight_through", "kl_weight", "temperature", "temperature_final", "temperature_steps"),
    *("keep_gray", "keep_known"),
)


def compare_configs(
    old: ml_collections.ConfigDict, new: ml_collections.ConfigDict, workdir: Path
) -> None:
    """Logs the settings that changed since the run began.

    Args:
        old: the workdir's config.
        new: the config of the resumed run.
        workdir: the run's folder, for the message.

    Raises:
        ValueError: if a change makes another model.
    """
    old, new = _flat(json.loads(old.to_json())), _flat(json.loads(new.to_json()))
    changed = {
        key: (old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }
    lines = [f"  {key}: {before} -> {after}" for key, (before, after) in changed.items()]
    if any(_another_model(key) for key in changed):
        raise ValueError(
            f"{workdir} holds a run of another model. Its settings and the given ones:\n"
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
