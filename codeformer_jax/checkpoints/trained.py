"""Trained networks, loaded from a workdir or a model file."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import ml_collections
import orbax.checkpoint as ocp

from codeformer_jax import convert
from codeformer_jax.checkpoints import digests
from codeformer_jax.checkpoints.recover import check_arrays
from codeformer_jax.checkpoints.workdir import (
    TEACHER_FILE,
    abstract_state,
    read_config,
    saved_steps,
    stored_rank,
)
from codeformer_jax.system import storage
from codeformer_jax.system.storage import Path
from codeformer_jax.tasks import BestScore, Task, make_task
from codeformer_jax.tasks.common import precision_of


@dataclass(frozen=True)
class Trained:
    """A network with its variables.

    Attributes:
        network: the name that `convert` uses.
        module, variables: the Linen module and its variables.
        config: the run's config; None for a model file.
        step: the checkpoint's step; None for a model file.
    """

    network: str
    module: Any
    variables: Any
    config: ml_collections.ConfigDict | None = None
    step: int | None = None

    @property
    def precision(self) -> str:
        """The precision of the run's products, see `nn.precision`."""
        return precision_of(self.config)


def load_trained(path: str | Path, which: str | int = "latest") -> Trained:
    """Loads the averaged network of a workdir, or a model file. It changes no file.

    Args:
        path: a training run's workdir, or a model file.
        which: 'latest', 'best' or a step. 'latest' falls back from damaged checkpoints, with a
            warning; `Trained.step` is the one that was loaded.

    Raises:
        FileNotFoundError: if there is no such file, workdir or checkpoint.
        ValueError: if `which` is something else, its checkpoint or all of them are damaged, or the
            workdir's config describes another network.
    """
    path = storage.to_path(path)
    if path.is_file():
        return Trained(*convert.load_model(path))
    task, config = _open_run(path)
    step = _find_step(path, which, task.best_score)
    abstract = abstract_state(task, config)
    names = ("params", "ema_params", "collections")
    restored = _restore(path, step, {name: getattr(abstract, name) for name in names})
    variables = {
        "params": {**restored["params"], **restored["ema_params"]},
        **restored["collections"],
    }
    return Trained(task.network, task.trained_module, variables, config, step)


def load_discriminator(path: str | Path) -> Any:
    """Loads a discriminator's variables from a workdir's latest checkpoint or a model file.

    Raises:
        FileNotFoundError: if there is no such file, workdir or checkpoint.
        ValueError: if it holds no discriminator, or no checkpoint is whole.
    """
    path = storage.to_path(path, "init_discriminator_from")
    if path.is_file():
        network, _, variables = convert.load_model(path)
        if network != "discriminator":
            raise ValueError(f"{path} holds a {network}, not a discriminator")
        return variables
    task, config = _open_run(path)
    state = abstract_state(task, config).discriminator
    if state is None:
        raise ValueError(f"{path} is a run of task {config.task!r}, which has no discriminator")
    step = _find_step(path, "latest", task.best_score)
    state = _restore(path, step, {"discriminator": state})["discriminator"]
    return {"params": state.params, "batch_stats": state.batch_stats}


def export_trained(
    workdir: str | Path,
    target: str | Path,
    *,
    which: str | int = "latest",
    half: bool = False,
    about: Mapping[str, str] | None = None,
    force: bool = False,
) -> Trained:
    """Writes the averaged network of a workdir as one model file, for other programs to load.

    Args:
        workdir: a training run's folder.
        target: the file to write, ending in .safetensors.
        which: 'latest', 'best' or a step, as in `load_trained`.
        half: store 16-bit floats.
        about: further metadata of the file; the step is added.
        force: replace an existing file.

    Returns:
        The network that was written.

    Raises:
        FileExistsError: if `target` exists and `force` is False.
        ValueError: if `target` has another suffix, or a value is too large for `half`; and as
            `load_trained`.
    """
    target = storage.to_path(target)
    if target.suffix != ".safetensors":
        raise ValueError(
            f"{target}: a model file is written here; name it {target.stem}.safetensors"
        )
    if target.exists() and not force:
        raise FileExistsError(f"{target}: exists; pass --force to replace it")
    trained = load_trained(workdir, which)
    if "step" in (about or {}):
        raise ValueError("about has 'step', which the checkpoint sets; leave it out")
    about = {**(about or {}), "step": str(trained.step)}
    convert.save_model(
        target, trained.network, trained.module, trained.variables, half=half, about=about
    )
    return trained


def load_teacher(workdir: str | Path) -> tuple[Any, Any] | None:
    """Returns module and variables of the teacher that a run keeps, or None if it has none."""
    path = storage.to_path(workdir) / TEACHER_FILE
    return convert.load_model(path)[1:] if path.is_file() else None


def _open_run(workdir: Path) -> tuple[Task, ml_collections.ConfigDict]:
    if not workdir.exists():
        raise FileNotFoundError(f"{workdir} does not exist: expected a model file or a workdir")
    config = read_config(workdir)
    storage.check_workdir(workdir)
    return make_task(config, check=False), config  # Older settings may be out of today's ranges.


def _restore(workdir: Path, step: int, abstract: Any) -> Any:
    """Restores the arrays of `abstract` from a checkpoint onto one device."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), abstract
    )
    folder = storage.absolute(workdir) / "checkpoints" / str(step) / "default"
    check_arrays(folder, wanted, dtypes=False)
    with ocp.PyTreeCheckpointer() as checkpointer:
        return checkpointer.restore(
            folder,
            args=ocp.args.PyTreeRestore(
                item=wanted,
                partial_restore=True,
                restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
            ),
        )


def _find_step(workdir: Path, which: str | int, best: BestScore | None) -> int:
    folder, steps = workdir / "checkpoints", saved_steps(workdir)
    if not steps:
        raise FileNotFoundError(f"{workdir} has no complete checkpoint yet")
    if which == "latest" or (which == "best" and best is None):
        step, faults = digests.newest_whole(workdir)
        if step is None:
            raise digests.all_damaged(workdir, faults)
        for damaged, reason in faults.items():
            logging.warning(
                "checkpoint %s is damaged, the one before is taken: %s", folder / damaged, reason
            )
        return step
    if which == "best":
        step = max(steps, key=lambda step: stored_rank(folder / str(step), best))
    elif not str(which).isdigit():
        raise ValueError(f"checkpoint is {which!r}; expected 'latest', 'best' or a step")
    elif int(which) not in steps:
        raise FileNotFoundError(f"{workdir} has checkpoints {steps}, not {which}")
    else:
        step = int(which)
    # The scores of another checkpoint would be taken for those of the one asked for.
    if reason := digests.fault(folder / str(step)):
        raise ValueError(
            f"checkpoint {folder / str(step)} ({which}) is damaged: {reason}; {workdir} has "
            f"checkpoints {steps}: name another step, or 'latest'"
        )
    return step
