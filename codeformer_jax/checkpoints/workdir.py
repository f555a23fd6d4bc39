"""Content of a training workdir: its config, its complete checkpoints and their scores.

`compare_configs` compares its config with that of a resumed run.
"""

import json
import logging
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from codeformer_jax.system import storage
from codeformer_jax.system.keys import make_key
from codeformer_jax.system.storage import Path
from codeformer_jax.tasks import BestScore, Task
from codeformer_jax.tasks.state import TrainState

CONFIG_FILE = "config.json"
TEACHER_FILE = "teacher.safetensors"
# Orbax marks an unfinished save in its folder's name; in a bucket a file marks a complete one.
_UNFINISHED, COMMITTED = ".orbax-checkpoint-tmp", "commit_success.txt"
UNSCORED = -1e9  # The rank of checkpoints that were not evaluated.
# Changing one of these sections makes another model,
MODEL_SECTIONS = ("task", "model", "codeformer", "discriminator", "prior_of", "pixelcnn", "gpt")
# except for these settings, which leave its arrays as they are.
COMPUTATION = (
    *("dtype", "precision", "remat", "restart_below", "dropout"),
    *("straight_through", "kl_weight", "temperature", "temperature_final", "temperature_steps"),
    *("keep_gray", "keep_known"),
)


def read_config(workdir: Path) -> ml_collections.ConfigDict:
    """Reads the config that a run wrote into its workdir.

    Raises:
        FileNotFoundError: if the folder is not a workdir.
        ValueError: if the file is damaged or not a run's config.
    """
    path = workdir / CONFIG_FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{workdir} is neither a model file nor a training workdir (no {CONFIG_FILE} in it)"
        )
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if "task" not in content:
        raise ValueError(f"{path} is not the config of a training run: it names no task")
    return ml_collections.ConfigDict(content)


def saved_steps(workdir: Path) -> list[int]:
    """Returns the steps of the complete checkpoints in rising order; none without a workdir."""
    found = [path for path in _entries(workdir / "checkpoints") if path.name.isdigit()]
    if storage.is_remote(workdir):  # A bucket cannot rename a folder once it is complete.
        found = [path for path in found if (path / COMMITTED).exists()]
    return sorted(int(path.name) for path in found)


def unfinished_saves(workdir: Path) -> list[Path]:
    """Returns the folders of saves that are under way or were killed."""
    folder = workdir / "checkpoints"
    if not storage.is_remote(workdir):
        return list(folder.glob(f"*{_UNFINISHED}*"))
    steps = (path for path in _entries(folder) if path.name.isdigit())
    return [path for path in steps if not (path / COMMITTED).exists()]


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def abstract_state(task: Task, config: ml_collections.ConfigDict) -> TrainState:
    """Returns shapes and dtypes of the task's state without computing it.

    Args:
        task: the task.
        config: the run's config, for the size of a batch.
    """
    size = config.data.image_size
    images = jax.ShapeDtypeStruct((config.data.batch_size, size, size, 3), jnp.uint8)

    return jax.eval_shape(lambda key, images: task.init(key, images, None), make_key(0), images)


def rank(scores: dict[str, float], best: BestScore) -> float:
    """Returns the rank of a checkpoint with these stored scores; the best has the largest."""
    return best.rank(scores) if best.name in scores else UNSCORED


def stored_rank(checkpoint: Path, best: BestScore) -> float:
    """Returns the rank of a checkpoint by the scores beside it; -inf if they are damaged.

    Raises:
        OSError: or another error of its client, if a bucket does not answer.
    """
    try:
        return rank(json.loads((checkpoint / "metrics" / "metrics").read_bytes()), best)
    except (OSError, ValueError, TypeError) as error:
        if storage.is_away(error, checkpoint):
            raise
        logging.warning("%s counts as the worst: its metrics are damaged: %s", checkpoint, error)
        return float("-inf")


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
    lines = {key: f"  {key}: {before} -> {after}" for key, (before, after) in changed.items()}
    if refused := [line for key, line in lines.items() if _another_model(key)]:
        raise ValueError(
            f"{workdir} holds a run of another model. Its settings and the given ones:\n"
            + "\n".join(refused)
            + "\nUse another --workdir, or the settings that it was started with."
        )
    if changed:
        logging.warning("settings changed since this run began:\n%s", "\n".join(lines.values()))


def _another_model(key: str) -> bool:
    parts = key.split(".")
    return parts[0] in MODEL_SECTIONS and parts[-1] not in COMPUTATION


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
