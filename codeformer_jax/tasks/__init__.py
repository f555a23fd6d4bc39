"""Training tasks: each puts networks, losses and optimizers together as pure functions."""

import ml_collections

from codeformer_jax.tasks.code_prediction import CodePredictionTask
from codeformer_jax.tasks.common import Task
from codeformer_jax.tasks.prior import PriorTask
from codeformer_jax.tasks.restoration import RestorationTask
from codeformer_jax.tasks.vqgan import VQGANTask

TASKS = {
    "vqgan": VQGANTask,
    "code_prediction": CodePredictionTask,
    "restoration": RestorationTask,
    "prior": PriorTask,
}


def make_task(config: ml_collections.ConfigDict) -> Task:
    """The task that `config.task` names.

    Raises:
        ValueError: for an unknown name or settings that do not fit together.
    """
    if config.task not in TASKS:
        raise ValueError(f"config.task is {config.task!r}; expected one of {', '.join(TASKS)}")
    return TASKS[config.task](config)
