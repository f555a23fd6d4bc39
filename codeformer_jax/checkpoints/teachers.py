"""The teacher of a run: the trained autoencoder whose codes are learned."""

from pathlib import Path
from typing import Any

import ml_collections

from codeformer_jax.checkpoints.trained import Trained, load_teacher, load_trained
from codeformer_jax.convert import networks_of_role
from codeformer_jax.tasks import common
from codeformer_jax.tasks.state import PyTree

# Networks whose codes are learned.
AUTOENCODERS = ("vqgan", "taming_vqgan", "vqvae")


def find_teacher(config: ml_collections.ConfigDict, origin: Trained | None) -> tuple[Any, PyTree]:
    """Module and variables of the autoencoder that `config.teacher` or `config.init_from` holds.

    Args:
        config: of a run of stage II or III, or of a prior.
        origin: what `init_from` holds, where it is known already.

    Raises:
        ValueError: where neither holds one.
    """
    path = config.teacher or config.init_from
    if config.teacher:
        origin = load_trained(config.teacher)
    if origin is None:
        raise ValueError(
            f"task {config.task!r} learns the codes of a trained stage-I network and none was "
            "given: pass its workdir or model file as --config.init_from=PATH or "
            "--config.teacher=PATH"
        )
    return teacher_of(origin, path)


def teacher_of(trained: Trained, path: str | Path) -> tuple[Any, PyTree]:
    """Module and variables of a trained VQGAN or VQ-VAE as a teacher, its codebook a parameter.

    Of another network it is the one that lies beside its checkpoints.

    Args:
        trained: what `load_trained(path)` gave.
        path: workdir or model file.

    Raises:
        ValueError: where there is none.
    """
    if trained.network in networks_of_role("autoencoder"):
        averaged = getattr(trained.module, "ema_decay", None) is not None
        module = trained.module.clone(ema_decay=None) if averaged else trained.module
        return module, {"params": common.plain_codebook(trained.variables)}
    teacher = load_teacher(path)
    if teacher is None:
        raise ValueError(
            f"{path} holds a {trained.network} without the stage-I network that it was trained "
            "against: give that one's workdir or model file (--config.teacher=PATH for a run)"
        )
    return teacher
