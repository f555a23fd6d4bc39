"""What the operating system says of this process: its cores, its parent, locks against others."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import util
from typing import TextIO

import numpy as np


def usable_cores() -> int:
    """Processor cores that this process may use; more threads than these hold each other up."""
    if hasattr(os, "sched_getaffinity"):  # Linux.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Lets this process keep memory that it frees, where the C library is glibc.

    Decoding frees some arrays per picture. Given back, they come anew from the system, which clears
    them page by page: half of the time that it takes to decode a picture. glibc keeps what is
    smaller than the largest block that was ever freed.
    """
    np.empty(24 << 20, np.uint8)


def end_with_parent(before: Callable[[], None] | None = None) -> None:
    """In a process that `multiprocessing` started: ends it when its parent does, however that ends.

    `before` is called then, as it is where this process ends by itself or by SIGTERM, which
    `multiprocessing` sends to processes that are left when their parent ends. A reader of grain
    would otherwise wait for ever for a parent that was killed, with its memory. Ctrl-C, SIGHUP and
    SIGUSR1, which a terminal or a job's manager sends to parent and child, are left to the parent.
    """
    parent = multiprocessing.parent_process()

    def end(*_):
        if before is not None:
            before()
        os._exit(1)

    def wait():
        parent.join()
        end()

    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
    if before is not None:
        util.Finalize(None, before, exitpriority=10)
    threading.Thread(target=wait, daemon=True, name="end_with_parent").start()


@contextlib.contextmanager
def exclusive(path: str | os.PathLike) -> Iterator[TextIO]:
    """Holds the lock of the file `path`, which is made where it is missing; yields the file.

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
        yield file
