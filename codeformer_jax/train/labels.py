"""Class labels, for tasks that are conditioned on them."""

from typing import Any

import ml_collections

from codeformer_jax.data.examples import Source
from codeformer_jax.tasks import Task


def check_labels(
    task: Task, config: ml_collections.ConfigDict, source: Source, heldout: Source
) -> None:
    """Checks the label of one example of each source, if the task needs labels.

    Args:
        task: the task to train.
        config: the run's config.
        source, heldout: the sources of training and evaluation.

    Raises:
        ValueError: if a source has no labels, or one of an unknown class.
    """
    if not task.needs_labels:
        return
    classes = task.classes
    parts = [part for each in (source, heldout) for part in getattr(each, "sources", (each,))]
    for part in parts:
        label: Any = part[0].get("label")
        if label is None:
            raise ValueError(
                f"task {config.task!r} is conditioned on {classes} classes, and {part!r} gives no "
                "labels; use a source with labels (synthetic_shapes:SIZE, or a TFDS dataset with "
                f"a feature 'label') or a network without classes ({task.without_classes})"
            )
        _check_known(task, config, repr(part), int(label), int(label))


def check_batch(task: Task, config: ml_collections.ConfigDict, batch: dict[str, Any]) -> None:
    """Raises ValueError if a batch on the host has a label of an unknown class."""
    if task.needs_labels:
        labels = batch["label"]
        _check_known(task, config, "a batch", int(labels.min()), int(labels.max()))


def _check_known(
    task: Task, config: ml_collections.ConfigDict, who: str, least: int, most: int
) -> None:
    classes = task.classes
    if not 0 <= least <= most < classes:
        raise ValueError(
            f"{who} has the label {least if least < 0 else most}, but the network knows only 0 to "
            f"{classes - 1}; set {task.classes_setting} to the number of classes"
        )
