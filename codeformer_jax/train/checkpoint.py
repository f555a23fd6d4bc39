"""Checkpoints of a run, and the trained network that a workdir or a model file holds."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from codeformer_jax import convert, paths
from codeformer_jax.convert.atomic import atomic_path
from codeformer_jax.ops.random import make_key
from codeformer_jax.tasks import Task, make_task
from codeformer_jax.tasks.state import TrainState
from codeformer_jax.train import digests, hosts
from codeformer_jax.train.stored import check_stored

CONFIG_FILE = "config.json"
TEACHER_FILE = "teacher.safetensors"
UNFINISHED = ".orbax-checkpoint-tmp"  # In the names of folders of saves under way.
# The score by which a checkpoint is the best; of a prior, which has no pictures, the negative bits.
BEST_METRIC = "psnr"
BITS = "bits_per_dim"
WORST = -1e9  # Of checkpoints that were not evaluated.


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


class Checkpoints:
    """The checkpoints of a workdir: the latest two and the best by its held-out score are kept.

    The score is the PSNR, or of a prior its bits.

    Each has the digests of its files, written before it is complete (`train.digests`).
    """

    def __init__(self, workdir: Path):
        best = BestN(get_metric_fn=_best_metric, n=1, keep_checkpoints_without_metrics=False)
        self._folder = (Path(workdir) / "checkpoints").absolute()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                best_fn=_best_metric,  # Without it no metrics are written.
                # Where the latest turns out to be damaged, the run goes on from the one before.
                preservation_policy=AnyPreservationPolicy([LatestN(2), best]),
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_digests),
            ),
        )

    def save(self, state: TrainState, scores: dict[str, float] | None) -> None:
        """Saves in the background; a step that is already there at most gets its scores.

        `scores` None, of a step that was not evaluated, can be the latest but not the best.
        """
        step = int(state.step)
        metrics = {BEST_METRIC: WORST}
        if scores is not None:
            name = BEST_METRIC if BEST_METRIC in scores else BITS
            metrics = {name: float(scores[name])}
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)
        elif scores is not None:
            self._manager.wait_until_finished()
            if hosts.from_main(lambda: _metric(self._folder / str(step)) == WORST):
                self._add_scores(step, metrics)

    def _add_scores(self, step: int, metrics: dict[str, float]) -> None:
        """Of a step that was saved in a hurry, before its evaluation."""
        if jax.process_index() == 0:
            folder = self._folder / str(step)
            digests.forget(folder)  # Killed before the last line, it is one without digests.
            with atomic_path(folder / "metrics" / "metrics") as path:
                path.write_text(json.dumps(metrics))
            digests.write(folder)
        hosts.wait_for_all("scores are added")
        self._manager.reload()

    def _write_digests(self) -> None:
        """Called in the background between the last file of a save and its completion."""
        if jax.process_index() == 0:
            for unfinished in self._folder.glob(f"*{UNFINISHED}*"):
                digests.write(unfinished)

    def check(self) -> None:
        """Raises what a save in the background has failed with, such as a full disk."""
        self._manager.check_for_errors()

    def close(self) -> None:
        """Waits for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()


def read_config(workdir: Path) -> ml_collections.ConfigDict:
    """The configuration that a run wrote into its workdir.

    Raises:
        FileNotFoundError: where the folder is not a workdir.
        ValueError: where the file is not a run's config.
    """
    path = Path(workdir) / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{workdir} is neither a model file nor a training workdir (no {CONFIG_FILE} in it)"
        )
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if "task" not in content:
        raise ValueError(f"{path} is not the config of a training run: it names no task")
    return ml_collections.ConfigDict(content)


def saved_steps(workdir: Path) -> list[int]:
    """Steps of the complete checkpoints, in rising order; empty where there is no workdir."""
    folder = Path(workdir) / "checkpoints"
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())


def abstract_state(task: Task, config: ml_collections.ConfigDict) -> TrainState:
    """Shapes and dtypes of the task's state, without computing it."""
    size = config.data.image_size
    images = jax.ShapeDtypeStruct((config.data.batch_size, size, size, 3), jnp.uint8)

    return jax.eval_shape(lambda key, images: task.init(key, images, None), make_key(0), images)


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
    step = _find_step(path, which)
    abstract = abstract_state(task, config)
    names = ("params", "ema_params", "collections")
    restored = _restore(path, step, {name: getattr(abstract, name) for name in names})
    variables = {
        "params": {**restored["params"], **restored["ema_params"]},
        **restored["collections"],
    }
    module = task.module
    if hasattr(module, "stop_gradients"):  # A choice of the training task, not of the network.
        module = module.clone(stop_gradients=False)
    return Trained(task.network, module, variables, config, step)


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
    state = abstract_state(make_task(config, check=False), config).discriminator
    if state is None:
        raise ValueError(f"{path} is a run of task {config.task!r}, which has no discriminator")
    step = _find_step(path, "latest")
    state = _restore(path, step, {"discriminator": state})["discriminator"]
    return {"params": state.params, "batch_stats": state.batch_stats}


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


def _find_step(workdir: Path, which: str | int) -> int:
    folder, steps = workdir / "checkpoints", saved_steps(workdir)
    if not steps:
        raise FileNotFoundError(f"{workdir} has no complete checkpoint yet")
    if which == "latest":
        return _latest_whole(workdir, steps)
    if which == "best":
        step = max(steps, key=lambda step: _metric(folder / str(step)))
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


def _best_metric(metrics: dict[str, float]) -> float:
    return metrics[BEST_METRIC] if BEST_METRIC in metrics else -metrics[BITS]


def _metric(checkpoint: Path) -> float:
    path = checkpoint / "metrics" / "metrics"
    if not path.is_file():
        logging.warning("%s has no metrics; it counts as the worst", checkpoint)
        return float("-inf")
    try:
        return float(_best_metric(json.loads(path.read_bytes())))
    except (ValueError, LookupError, TypeError):
        logging.warning("%s is damaged; its checkpoint counts as the worst", path)
        return float("-inf")
