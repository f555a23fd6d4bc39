"""The newest checkpoint that is whole; damaged ones are told of and moved out of the way."""

import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from codeformer_jax.checkpoints import digests
from codeformer_jax.checkpoints.stored import differences
from codeformer_jax.checkpoints.workdir import saved_steps
from codeformer_jax.system import hosts
from codeformer_jax.system.orbax_logging import silence_leftovers
from codeformer_jax.tasks.state import TrainState

DAMAGED_FOLDER = "damaged"


def read_newest(workdir: Path, abstract: TrainState) -> tuple[TrainState, dict[int, str]]:
    """The newest state that is as it was written, and what is wrong with others, by step.

    The state is placed as `abstract` says. Nothing is changed: `move_damaged` does that.

    Raises:
        ValueError: no checkpoint is whole, or the state in a whole one is not one of this config.
    """
    silence_leftovers()  # Of a checkpoint that turns out to be damaged while it is read.
    faults: dict[int, str] = {}
    while True:
        step, found = hosts.from_main(partial(_newest_whole, workdir, faults))
        faults |= dict(found)
        if step is None:
            listed = "".join(f"\n  step {step}: {reason}" for step, reason in faults.items())
            raise ValueError(
                f"every checkpoint of {workdir} is damaged:{listed}\nBring one back from a copy, "
                "or start anew in another --workdir. Nothing was changed."
            )
        folder = workdir / "checkpoints" / str(step)
        try:
            state = _restore(folder, step, abstract)
            break
        except _OtherState:
            raise
        except Exception as error:
            # With digests it is whole, and what fails is something else. Of several processes
            # another may have read it well.
            if digests.known(folder) or jax.process_count() > 1:
                raise
            faults[step] = f"{type(error).__name__}: {error}"
    # Arrays of older ones are not needed; without their scores no more checkpoints can be saved.
    faults |= dict(hosts.from_main(lambda: _spoilt_scores(workdir, step)))
    return state, faults


def move_damaged(workdir: Path, faults: dict[int, str], step: int) -> None:
    """Moves checkpoints to `workdir`/damaged, so that their steps can be saved again.

    Args:
        faults: what is wrong with each, by step, as `read_newest` found it.
        step: that the run goes on from.
    """
    for damaged, reason in faults.items():
        _move_aside(workdir, damaged, reason, step)
    if faults:
        hosts.wait_for_all("damaged checkpoints are moved")


def _newest_whole(workdir: Path, known: dict[int, str]) -> tuple[int | None, list]:
    """The newest step without a fault, and [step, reason] of those before it."""
    found = []
    for step in reversed(saved_steps(workdir)):
        if step in known:
            continue
        reason = digests.fault(workdir / "checkpoints" / str(step))
        if reason is None:
            return step, found
        found.append([step, reason])
    return None, found


def _spoilt_scores(workdir: Path, before: int) -> list:
    older = (step for step in saved_steps(workdir) if step < before)
    folder = workdir / "checkpoints"
    spoilt = (step for step in older if digests.scores_spoilt(folder / str(step)))
    return [[step, "its scores are not what was written"] for step in spoilt]


class _OtherState(ValueError):
    """The arrays in a checkpoint are those of another model or optimizer."""


def _restore(folder: Path, step: int, abstract: TrainState) -> TrainState:
    with ocp.StandardCheckpointer() as checkpointer:
        path = folder.absolute() / "default"
        _check_state(folder, ocp.StandardCheckpointHandler().metadata(epath.Path(path)), abstract)
        state = checkpointer.restore(path, abstract)
    if int(state.step) != step:
        raise ValueError(f"{folder} holds the state of step {int(state.step)}")
    return state


def _check_state(folder: Path, saved: Any, abstract: TrainState) -> None:
    """Raises `_OtherState` where the saved arrays are not those that the config asks for.

    Orbax would cast another dtype in silence.
    """
    found = differences(
        getattr(saved, "tree", saved), abstract, lambda x: f"{x.dtype}{list(x.shape)}"
    )
    lines = [f"  {name}: not in the checkpoint" for name in found.missing]
    lines += [f"  {name}: only in the checkpoint" for name in found.left_over]
    lines += [
        f"  {name}: {have} in the checkpoint, {want} by the config"
        for name, (have, want) in found.others.items()
    ]
    if lines:
        more = f"\n  and {len(lines) - 10} more" if len(lines) > 10 else ""
        raise _OtherState(
            f"{folder} holds the state of another model or optimizer:\n"
            + "\n".join(lines[:10])
            + f"{more}\nUse another --workdir, or the settings that it was started with."
        )


def _move_aside(workdir: Path, damaged: int, reason: str, step: int) -> None:
    folder, target = workdir / "checkpoints" / str(damaged), workdir / DAMAGED_FOLDER / str(damaged)
    logging.error(
        "checkpoint %s is damaged: %s. The run goes on from step %d; the damaged one is now %s and "
        "can be removed.",
        folder,
        reason,
        step,
        target,
    )
    if hosts.is_main():
        target.parent.mkdir(exist_ok=True)
        if target.exists():
            shutil.rmtree(target)
        folder.rename(target)
