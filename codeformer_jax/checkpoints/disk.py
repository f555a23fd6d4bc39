"""A full disk, said so: how much is free, how much a checkpoint takes, what is still there."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from codeformer_jax.checkpoints.workdir import UNFINISHED, saved_steps
from codeformer_jax.system.orbax_logging import silence_leftovers

_FULL = {errno.ENOSPC: "No space left on device", errno.EDQUOT: "Disk quota exceeded"}
_ENOUGH = 10  # Checkpoints: with room for so many it is something else that is full.
_ELSEWHERE = (
    "Look for another file system that is full (/dev/shm, the temporary folder), or a limit on "
    "files (df -i) or of the user (quota)"
)


@contextlib.contextmanager
def full_disk_explained(workdir: Path, state: Any) -> Iterator[None]:
    """Turns an error that a full disk causes into one that says what to do.

    What the save that failed had written is removed; earlier checkpoints are left as they are.

    Args:
        workdir: of the run.
        state: tree of arrays, or of their shapes and dtypes, that a checkpoint holds.

    Raises:
        OSError: with errno ENOSPC or EDQUOT.
    """
    silence_leftovers()
    try:
        yield
    except Exception as error:
        number = _full(error)
        if number is None:
            raise
        for unfinished in (workdir / "checkpoints").glob(f"*{UNFINISHED}*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        steps = saved_steps(workdir)
        outlook = f"the same command goes on from step {steps[-1]}" if steps else "start again"
        free, needed = shutil.disk_usage(workdir).free, _needed(workdir, state, steps)
        advice = "Make room" if free < _ENOUGH * needed else _ELSEWHERE
        raise OSError(
            number,
            f"{_FULL[number]}: '{workdir}' has {free:,} bytes free, a checkpoint takes about "
            f"{needed:,}. Complete checkpoints are intact: {steps}. {advice}; {outlook}",
        ) from error


def _needed(workdir: Path, state: Any, steps: list[int]) -> int:
    """Bytes of the newest checkpoint, or of the arrays where there is none."""
    if not steps:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    files = (workdir / "checkpoints" / str(steps[-1])).rglob("*")
    return sum(path.stat().st_size for path in files if path.is_file())


def _full(error: BaseException | None) -> int | None:
    """The error number of a full disk, where it is behind `error`."""
    while error is not None:
        for number, words in _FULL.items():
            # TensorStore raises a ValueError with the words of the system.
            if getattr(error, "errno", None) == number or words in str(error):
                return number
        error = error.__cause__ or error.__context__
    return None
