"""What the operating system says of this process: its cores, and locks against other processes."""

import contextlib
import os
from collections.abc import Iterator


def usable_cores() -> int:
    """Processor cores that this process may use; more threads than these hold each other up."""
    if hasattr(os, "sched_getaffinity"):  # Linux.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def exclusive(path: str | os.PathLike) -> Iterator[None]:
    """Holds the lock of the file `path`, which is made where it is missing.

    The system lifts it when this process ends. Who holds it may remove the file.

    Raises:
      BlockingIOError: another process holds it, or has just removed the file.
    """
    import fcntl  # noqa: PLC0415  POSIX only, as is the lock.

    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            ours = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
        except FileNotFoundError:
            ours = False
        if not ours:
            raise BlockingIOError(f"'{os.fspath(path)}' was removed by another process")
        yield
