"""The trained network that a workdir or a model file holds."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import ml_collections
import orbax.checkpoint as ocp

from codeformer_jax import convert
from codeformer_jax.checkpoints import digests
from codeformer_jax.checkpoints.stored import check_stored
from codeformer_jax.checkpoints.workdir import (
    CONFIG_FILE,
    TEACHER_FILE,
    abstract_state,
    read_config,
    saved_steps,
    stored_rank,
)
from codeformer_jax.system import paths
from codeformer_jax.tasks import BestScore, make_task


@dataclass(frozen=True)
class Trained:
    """A network with its variables.

    `network` is the name that `convert` uses; `step` is None for a model file.
    """

    network: str
    module: Any
    variables: Any
    config: ml_collections.ConfigDict | None = None
    step: int | None = None


def load_trained(path: str | Path, which: str | int = "latest") -> Trained:
    """The averaged network of a workdir (latest or best checkpoint, or a step) or a model file.

    'latest' passes over damaged checkpoints, with a warning: `Trained.step` tells which one it is.
    Nothing is changed in the workdir.

    Raises:
        FileNotFoundError: where there is no such file, workdir or checkpoint.
        ValueError: where `which` is something else, the best one or that of the step is damaged,
            or all are; where the workdir's config is that of another network.
    """
    path = Path(paths.local(path))
    if path.is_file():
        return Trained(*convert.load_model(path))
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: expected a model file or a workdir")
    config = read_config(path)
    paths.check_workdir(path)
    task = make_task(config, check=False)  # Whatever it was trained with.
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
        FileNotFoundError: where there is no such file, workdir or checkpoint.
        ValueError: where it holds no discriminator, or no checkpoint is whole.
    """
    path = Path(paths.local(path, "init_discriminator_from"))
    if path.is_file():
        network, _, variables = convert.load_model(path)
        if network != "discriminator":
            raise ValueError(f"{path} holds a {network}, not a discriminator")
        return variables
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: expected a model file or a workdir")
    config = read_config(path)
    paths.check_workdir(path)
    task = make_task(config, check=False)
    state = abstract_state(task, config).discriminator
    if state is None:
        raise ValueError(f"{path} is a run of task {config.task!r}, which has no discriminator")
    step = _find_step(path, "latest", task.best_score)
    state = _restore(path, step, {"discriminator": state})["discriminator"]
    return {"params": state.params, "batch_stats": state.batch_stats}


def export_trained(
    workdir: str | Path, target: str | Path, *, which: str | int = "latest", force: bool = False
) -> Trained:
    """Writes the averaged network of a workdir as one model file, for other programs to load.

    Raises:
        FileExistsError: where `target` exists and `force` is not given.
        ValueError: where `target` does not end in .safetensors; and as `load_trained`.
    """
    target = Path(target)
    if target.suffix != ".safetensors":
        raise ValueError(
            f"{target}: a model file is written here; name it {target.stem}.safetensors"
        )
    if target.exists() and not force:
        raise FileExistsError(f"{target}: exists; pass --force to replace it")
    trained = load_trained(workdir, which)
    convert.save_model(target, trained.network, trained.module, trained.variables)
    return trained


def load_teacher(workdir: str | Path) -> tuple[Any, Any] | None:
    """Module and variables of the teacher that a run keeps beside its checkpoints."""
    path = Path(workdir) / TEACHER_FILE
    return convert.load_model(path)[1:] if path.is_file() else None


def _restore(workdir: Path, step: int, abstract: Any) -> Any:
    """Restores those arrays of a checkpoint that `abstract` describes, on one device."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), abstract
    )
    folder = workdir.absolute() / "checkpoints" / str(step) / "default"
    check_stored(folder, wanted, workdir / CONFIG_FILE)
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
        return _latest_whole(workdir, steps)
    if which == "best":
        step = max(steps, key=lambda step: stored_rank(folder / str(step), best))
    elif not str(which).isdigit():
        raise ValueError(f"checkpoint is {which!r}; expected 'latest', 'best' or a step")
    elif int(which) not in steps:
        raise FileNotFoundError(f"{workdir} has checkpoints {steps}, not {which}")
    else:
        step = int(which)
    # Scores of another checkpoint than the one asked for would be taken for its own.
    if reason := digests.fault(folder / str(step)):
        raise ValueError(
            f"checkpoint {folder / str(step)} ({which}) is damaged: {reason}; {workdir} has "
            f"checkpoints {steps}: name another step, or 'latest'"
        )
    return step


def _latest_whole(workdir: Path, steps: list[int]) -> int:
    faults = []
    for step in reversed(steps):
        folder = workdir / "checkpoints" / str(step)
        if not (reason := digests.fault(folder)):
            return step
        logging.warning("checkpoint %s is damaged, the one before is taken: %s", folder, reason)
        faults.append(f"\n  step {step}: {reason}")
    raise ValueError(f"every checkpoint of {workdir} is damaged:" + "".join(faults))
