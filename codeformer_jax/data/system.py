"""What the operating system says of this process: its cores, its parent, locks against others."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator


def usable_cores() -> int:
    """Processor cores that this process may use; more threads than these hold each other up."""
    if hasattr(os, "sched_getaffinity"):  # Linux.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_with_parent(*_) -> None:
    """In a process that `multiprocessing` started: ends it when its parent does, however that ends.

    A reader of grain would otherwise wait for ever for a parent that was killed, with its memory.
    Ctrl-C, which goes to parent and child, is left to the parent.
    """
    parent = multiprocessing.parent_process()

    def wait():
        parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=wait, daemon=True, name="end_with_parent").start()


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
