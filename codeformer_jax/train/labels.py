"""Class labels, for tasks that are conditioned on them."""

from typing import Any

import ml_collections

from codeformer_jax.data.examples import Source
from codeformer_jax.tasks import Task

# Of each task with classes: their number, and what does without them.
_SETTINGS = {
    "pixelcnn_prior": ("--config.pixelcnn.classes", "--config.pixelcnn.classes=0"),
    "gpt_prior": ("--config.gpt.classes", "--config.gpt.classes=0 --config.gpt.condition=start"),
}


def needs_labels(task: Task) -> bool:
    """Whether the task's steps take labels."""
    return getattr(task, "needs_labels", False)


def check_labels(
    task: Task, config: ml_collections.ConfigDict, source: Source, heldout: Source
) -> None:
    """Looks at one example of each source where the task needs labels.

    Raises:
        ValueError: no labels, or one of an unknown class.
    """
    if not needs_labels(task):
        return
    classes = task.module.classes
    parts = [part for each in (source, heldout) for part in getattr(each, "sources", (each,))]
    for part in parts:
        label: Any = part[0].get("label")
        if label is None:
            raise ValueError(
                f"task {config.task!r} is conditioned on {classes} classes, and {part!r} gives no "
                "labels; use a source with labels (synthetic_shapes:SIZE, or a TFDS dataset with "
                f"a feature 'label') or a prior without classes ({_SETTINGS[config.task][1]})"
            )
        _check_known(task, config, repr(part), int(label), int(label))


def check_batch(task: Task, config: ml_collections.ConfigDict, batch: dict[str, Any]) -> None:
    """Raises ValueError where a batch on the host has a label of an unknown class."""
    if needs_labels(task):
        labels = batch["label"]
        _check_known(task, config, "a batch", int(labels.min()), int(labels.max()))


def _check_known(
    task: Task, config: ml_collections.ConfigDict, who: str, least: int, most: int
) -> None:
    classes = task.module.classes
    if not 0 <= least <= most < classes:
        raise ValueError(
            f"{who} gives the label {least if least < 0 else most}, and the network knows 0 to "
            f"{classes - 1}; set {_SETTINGS[config.task][0]} to the number of classes"
        )
