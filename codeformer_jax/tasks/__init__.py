"""Training tasks: each puts networks, losses and optimizers together as pure functions."""

import ml_collections

from codeformer_jax.nn.precision import with_precision
from codeformer_jax.tasks import settings
from codeformer_jax.tasks.code_prediction import CodePredictionTask
from codeformer_jax.tasks.common import Task, precision_of
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
# What a task computes on the device.
_COMPUTED = ("init", "train_step", "eval_step", "sample_step", "reconstruct")


def make_task(config: ml_collections.ConfigDict, *, check: bool = True) -> Task:
    """Makes the task that `config.task` names, with products of `config.model.precision`.

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
    task, precision = TASKS[config.task](config), precision_of(config)
    for name in _COMPUTED if precision != "default" else ():
        if hasattr(task, name):
            setattr(task, name, with_precision(precision, getattr(task, name)))
    return task
