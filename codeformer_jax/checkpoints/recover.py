"""The newest whole checkpoint: checked against a config, restored; damaged ones move away."""

import logging
from functools import partial

import jax
import orbax.checkpoint as ocp

from codeformer_jax.checkpoints import digests
from codeformer_jax.checkpoints.workdir import COMMITTED
from codeformer_jax.system import hosts, storage
from codeformer_jax.system.storage import Path
from codeformer_jax.tasks.state import PyTree, TrainState

DAMAGED_FOLDER = "damaged"
_LISTED = 5


def read_newest(workdir: Path, abstract: TrainState) -> tuple[TrainState, dict[str, str]]:
    """Restores the newest checkpoint that is whole; changes no file.

    Args:
        workdir: a run's folder with checkpoints.
        abstract: shapes, dtypes and shardings of the state.

    Returns:
        The state, and the faults of newer checkpoints by step, for `move_damaged`.

    Raises:
        ValueError: if no checkpoint is whole, or the state does not belong to this config.
    """
    step, faults = hosts.from_main("checks of the digests", partial(digests.newest_whole, workdir))
    hosts.at("restoration of the state")
    if step is None:
        raise digests.all_damaged(workdir, faults)
    folder = storage.absolute(workdir) / "checkpoints" / str(step) / "default"
    check_arrays(folder, abstract)
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(folder, abstract), faults


def move_damaged(workdir: Path, faults: dict[str, str], step: int) -> None:
    """Moves damaged checkpoints to `workdir`/damaged, so that their steps can be saved again.

    Args:
        workdir: the run's folder.
        faults: the faults by step that `read_newest` returned.
        step: the step that the run resumes from.
    """
    for damaged, reason in faults.items():
        folder, target = workdir / "checkpoints" / damaged, workdir / DAMAGED_FOLDER / damaged
        logging.error(
            "checkpoint %s is damaged: %s. The run resumes from step %d; the damaged checkpoint is "
            "now %s and can be removed.",
            folder,
            reason,
            step,
            target,
        )
        if hosts.is_main():
            storage.remove(target)
            storage.remove(folder / COMMITTED)  # A bucket cannot move a folder at once.
            target.parent.mkdir(exist_ok=True)
            storage.move(folder, target)
    if faults:
        hosts.wait_for_all("moving of damaged checkpoints")


def check_arrays(folder: Path, wanted: PyTree, *, dtypes: bool = True) -> None:
    """Checks that a checkpoint holds the arrays of a config before it is restored.

    Orbax casts another dtype silently, and a partial restore ignores arrays that are left over.

    Args:
        folder: the checkpoint's folder of arrays.
        wanted: arrays or shapes; a dict has only some of the state's top-level names.
        dtypes: whether the dtypes must agree too.

    Raises:
        ValueError: listing the arrays that differ.
    """
    saved = ocp.PyTreeCheckpointHandler().metadata(folder).tree
    if isinstance(wanted, dict):
        saved = {name: saved.get(name) for name in wanted}
    have, want = _described(saved, dtypes), _described(wanted, dtypes)
    pairs = {n: (have.get(n, "missing"), want.get(n, "none")) for n in sorted({*have, *want})}
    found = [f"{n}: {a} in the checkpoint, {b} expected" for n, (a, b) in pairs.items() if a != b]
    if found:
        more = f"; and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        raise ValueError(
            f"checkpoint {folder.parent} does not hold the arrays of its config, but those of "
            f"another model or optimizer: {'; '.join(found[:_LISTED])}{more}. Put back the config "
            "that the run was started with, or use another --workdir."
        )


def _described(tree: PyTree, dtypes: bool) -> dict[str, str]:
    """Returns shapes by path. Paths are those of Orbax, which saves dataclasses as dicts."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{x.dtype if dtypes else ''}{list(x.shape)}"
        )
        for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
