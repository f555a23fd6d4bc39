"""A clear error for a full disk."""

import contextlib
import errno
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from codeformer_jax.checkpoints.workdir import UNFINISHED, saved_steps

_FULL = {errno.ENOSPC: "No space left on device", errno.EDQUOT: "Disk quota exceeded"}


@contextlib.contextmanager
def full_disk_explained(workdir: Path) -> Iterator[None]:
    """Turns an error that a full disk causes into one that says what to do.

    It removes what the failed save has written. Earlier checkpoints stay as they are.

    Raises:
        OSError: with errno ENOSPC or EDQUOT.
    """
    # Orbax writes hundreds of arrays at once, and asyncio would log an error for each.
    logging.getLogger("asyncio").addFilter(_is_news)
    try:
        yield
    except Exception as error:
        number = _full(error)
        if number is None:
            raise
        for unfinished in (workdir / "checkpoints").glob(f"*{UNFINISHED}*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        steps = saved_steps(workdir)
        outlook = f"resumes from step {steps[-1]}" if steps else "starts again"
        raise OSError(
            number,
            f"{_FULL[number]}: '{workdir}' has {shutil.disk_usage(workdir).free:,} bytes free. "
            f"Complete checkpoints are intact: {steps}. Make room there or, if there is enough, in "
            f"/dev/shm, the temporary folder or the quota; then the same command {outlook}",
        ) from error


def _is_news(record: logging.LogRecord) -> bool:
    return "exception was never retrieved" not in record.getMessage()


def _full(error: BaseException | None) -> int | None:
    """Returns the error number of a full disk if that is what caused `error`."""
    while error is not None:
        for number, words in _FULL.items():
            # TensorStore raises a ValueError with the words of the system.
            if getattr(error, "errno", None) == number or words in str(error):
                return number
        error = error.__cause__ or error.__context__
    return None
