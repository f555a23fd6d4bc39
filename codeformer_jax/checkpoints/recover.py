"""Restores the newest whole checkpoint and moves damaged ones out of the way."""

import logging
import shutil
from functools import partial
from pathlib import Path

import orbax.checkpoint as ocp

from codeformer_jax.checkpoints import digests
from codeformer_jax.checkpoints.compare import check_arrays
from codeformer_jax.system import hosts
from codeformer_jax.tasks.state import TrainState

DAMAGED_FOLDER = "damaged"


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
    step, faults = hosts.from_main(partial(digests.newest_whole, workdir))
    if step is None:
        raise digests.all_damaged(workdir, faults)
    folder = workdir.absolute() / "checkpoints" / str(step) / "default"
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
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            folder.rename(target)
    if faults:
        hosts.wait_for_all("damaged checkpoints are moved")
