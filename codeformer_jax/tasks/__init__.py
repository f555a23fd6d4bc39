"""Training tasks: each puts networks, losses and optimizers together as pure functions."""

import ml_collections

from codeformer_jax.tasks import settings
from codeformer_jax.tasks.code_prediction import CodePredictionTask
from codeformer_jax.tasks.common import Task
from codeformer_jax.tasks.gpt_prior import GPTPriorTask
from codeformer_jax.tasks.pixelcnn_prior import PixelCNNPriorTask
from codeformer_jax.tasks.restoration import RestorationTask
from codeformer_jax.tasks.vqgan import VQGANTask
from codeformer_jax.tasks.vqvae import VQVAETask

TASKS = {
    "vqgan": VQGANTask,
    "vqvae": VQVAETask,
    "pixelcnn_prior": PixelCNNPriorTask,
    "gpt_prior": GPTPriorTask,
    "code_prediction": CodePredictionTask,
    "restoration": RestorationTask,
}


def make_task(config: ml_collections.ConfigDict, *, check: bool = True) -> Task:
    """Makes the task that `config.task` names.

    Args:
        config: of a run, see `configs/`.
        check: refuse values out of their range (`settings.check`); off to load an older run.

    Raises:
        ValueError: for an unknown name, a value out of its range or settings that do not fit
            together.
    """
    if check:
        settings.check(config)
    if config.task not in TASKS:
        raise ValueError(f"config.task is {config.task!r}; expected one of {', '.join(TASKS)}")
    return TASKS[config.task](config)
