"""Frozen networks of a run: the teacher whose codes it learns, and that of the perceptual loss."""

from collections.abc import Sequence
from typing import Any

import ml_collections

from codeformer_jax import convert
from codeformer_jax.checkpoints.trained import Trained, load_teacher, load_trained
from codeformer_jax.convert import networks_of_role
from codeformer_jax.system import storage
from codeformer_jax.system.storage import Path
from codeformer_jax.tasks import common
from codeformer_jax.tasks.state import PyTree

LPIPS_HELP = (
    "make one with\n"
    '  python -c "import lpips, torch; '
    "torch.save(lpips.LPIPS(net='vgg').state_dict(), 'lpips.pth')\"\n"
    "  codeformer-jax convert lpips.pth weights/lpips.safetensors\n"
    "or, without PyTorch, use ST-LPIPS, whose weights come by pip (docs/training.md),\n"
    "or train without it: --config.loss.perceptual_weight=0.0"
)


def find_teacher(config: ml_collections.ConfigDict, origin: Trained | None) -> tuple[Any, PyTree]:
    """Loads the autoencoder that `config.teacher` or `config.init_from` names.

    Args:
        config: the config of stage II or III, or of a prior.
        origin: the content of `init_from` if it is loaded already.

    Returns:
        Module and variables.

    Raises:
        ValueError: if neither holds an autoencoder.
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
    """Returns a trained autoencoder as a teacher, or the teacher of another trained network.

    Args:
        trained: the result of `load_trained(path)`.
        path: its workdir or model file.

    Returns:
        Module and variables, with the codebook as a parameter.

    Raises:
        ValueError: if there is none.
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


def load_lpips(path: str | None, networks: Sequence[str] = ("lpips", "st_lpips")) -> PyTree:
    """Loads the variables of `nn.LPIPS` or `nn.STLPIPS` from a model file.

    Args:
        path: the model file.
        networks: networks that are accepted; `nn.fit_lpips` tells which one the variables are of.

    Raises:
        ValueError: if no path is given, or the file holds another network.
        FileNotFoundError: if the file does not exist.
    """
    if not path:
        raise ValueError(f"the perceptual loss needs converted LPIPS weights; {LPIPS_HELP}")
    if not storage.to_path(path).is_file():
        raise FileNotFoundError(f"no LPIPS weights at {path}; {LPIPS_HELP}")
    network, _, variables = convert.load_model(path)
    if network not in networks:
        raise ValueError(f"{path} holds a {network}; expected weights of {' or '.join(networks)}")
    return variables
