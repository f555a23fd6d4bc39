"""Training tasks: each puts networks, losses and optimizers together as pure functions."""

import ml_collections

from codeformer_jax.nn.precision import with_precision
from codeformer_jax.system.registry import import_plugins
from codeformer_jax.tasks import settings
from codeformer_jax.tasks.code_prediction import CodePredictionTask
from codeformer_jax.tasks.common import precision_of
from codeformer_jax.tasks.gpt_prior import GPTPriorTask
from codeformer_jax.tasks.pixelcnn_prior import PixelCNNPriorTask
from codeformer_jax.tasks.protocol import TASKS, BestScore, Evaluated, Task
from codeformer_jax.tasks.restoration import RestorationTask
from codeformer_jax.tasks.state import TrainState
from codeformer_jax.tasks.vqgan import VQGANTask
from codeformer_jax.tasks.vqvae import VQVAETask

__all__ = [
    "TASKS",
    "BestScore",
    "CodePredictionTask",
    "Evaluated",
    "GPTPriorTask",
    "PixelCNNPriorTask",
    "RestorationTask",
    "Task",
    "TrainState",
    "VQGANTask",
    "VQVAETask",
    "make_task",
]
# The methods of a task that compute on the device.
_COMPUTED = ("init", "train_step", "eval_step", "sample_step", "reconstruct")


def make_task(config: ml_collections.ConfigDict, *, check: bool = True) -> Task:
    """Makes the task that `config.task` names, with products of `config.model.precision`.

    Args:
        config: the run's config, see `configs/`; its `plugins` are imported first.
        check: whether values out of their range are refused (`settings.check`); off to load an
            older run.

    Raises:
        ValueError: an unknown name, a plugin that cannot be imported, a value out of its range or
            settings that do not fit together.
    """
    if check:
        settings.check(config)
    else:
        import_plugins(config)
    task, precision = TASKS[config.task](config), precision_of(config)
    for name in _COMPUTED if precision != "default" else ():
        setattr(task, name, with_precision(precision, getattr(task, name)))
    return task
