"""Content of a training workdir: its config, its complete checkpoints and their scores."""

import json
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections

from codeformer_jax.ops.random import make_key
from codeformer_jax.tasks import Task
from codeformer_jax.tasks.state import TrainState

CONFIG_FILE = "config.json"
TEACHER_FILE = "teacher.safetensors"
UNFINISHED = ".orbax-checkpoint-tmp"  # Part of the folder names of saves under way.
# The score that chooses the best checkpoint; for a prior the negative bits per dimension.
BEST_METRIC = "psnr"
BITS = "bits_per_dim"
WORST = -1e9  # The score of a checkpoint that was not evaluated.


def read_config(workdir: Path) -> ml_collections.ConfigDict:
    """Reads the config that a run wrote into its workdir.

    Raises:
        FileNotFoundError: if the folder is not a workdir.
        ValueError: if the file is damaged or not a run's config.
    """
    path = Path(workdir) / CONFIG_FILE
    if not path.is_file():
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
    folder = Path(workdir) / "checkpoints"
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())


def abstract_state(task: Task, config: ml_collections.ConfigDict) -> TrainState:
    """Returns shapes and dtypes of the task's state without computing it."""
    size = config.data.image_size
    images = jax.ShapeDtypeStruct((config.data.batch_size, size, size, 3), jnp.uint8)

    return jax.eval_shape(lambda key, images: task.init(key, images, None), make_key(0), images)


def best_metric(metrics: dict[str, float]) -> float:
    """Returns the score of a checkpoint; higher is better."""
    return metrics[BEST_METRIC] if BEST_METRIC in metrics else -metrics[BITS]


def metric(checkpoint: Path) -> float:
    """Reads the score of a checkpoint; -inf, with a warning, if it has none or it is damaged."""
    path = checkpoint / "metrics" / "metrics"
    if not path.is_file():
        logging.warning("%s has no metrics; it counts as the worst", checkpoint)
        return float("-inf")
    try:
        return float(best_metric(json.loads(path.read_bytes())))
    except (ValueError, LookupError, TypeError):
        logging.warning("%s is damaged; its checkpoint counts as the worst", path)
        return float("-inf")
