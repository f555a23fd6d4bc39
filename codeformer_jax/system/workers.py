"""Processes and the operating system: cores, memory, parents and locks."""

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
    """Returns the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for this process.

    Decoding a picture frees some arrays. If they went back, the system would clear them page by
    page for the next picture, which takes half of the decoding time. glibc keeps blocks that are
    smaller than the largest one ever freed.
    """
    np.empty(24 << 20, np.uint8)


def end_with_parent(before: Callable[[], None] | None = None) -> None:
    """Ends this process, which `multiprocessing` started, when its parent ends or is killed.

    Otherwise a reader of grain would wait forever for a killed parent, and keep its memory. This
    process ignores Ctrl-C, SIGHUP and SIGUSR1, which a terminal or a job manager sends to the
    parent too.

    Args:
        before: called before this process ends: with its parent, by SIGTERM, or by itself.
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
    """Holds the lock of a file, which is made if it is missing, and yields the file.

    The system releases the lock when this process ends. Its holder may remove the file.

    Raises:
        BlockingIOError: if another process holds the lock, or has just removed the file.
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
