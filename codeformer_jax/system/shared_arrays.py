"""Arrays from worker processes, passed in slots of shared memory that are reused.

The system clears shared memory page by page when it is first touched. New memory for every batch,
as grain makes it, and the copy into it cost a worker a third of its time. Pages are reserved when a
slot is made: touching a page that the system does not have would end the process with SIGBUS.
"""

import contextlib
import dataclasses
import errno
import logging
import os
import shutil
import threading
import weakref
from multiprocessing import shared_memory

import numpy as np

_FOLDER = "/dev/shm"
_HEADER = 64  # Bytes before an array. The first is 1 while the slot is in use.
_QUEUES = 2**17  # Bytes for the queues and locks of a worker.
_HELP = (
    "give the container more (docker run --shm-size=4g; in Kubernetes an emptyDir of medium Memory "
    "at /dev/shm), or lower data.workers (encode: --workers) or the batch size; 0 workers need none"
)

_log = logging.getLogger(__name__)


class SharedMemoryFull(OSError):
    """Too little shared memory. It has no errno, which would blame a disk."""


@dataclasses.dataclass(frozen=True)
class SharedArrayRef:
    """An array in a slot, as it is sent to the process that takes it.

    Unpickling opens the memory, so that it stays when the worker ends. While something refers to
    `memory`, the next array in the slot finds it open.
    """

    slot: str
    shape: tuple[int, ...]
    dtype: str
    memory: shared_memory.SharedMemory | None = dataclasses.field(default=None, compare=False)

    def __reduce__(self):
        return _arrive, (self.slot, self.shape, self.dtype)

    def take(self) -> np.ndarray:
        """Returns a copy of the array, which has arrived, and frees the slot.

        Raises:
            FileNotFoundError: if the worker ended before it arrived.
        """
        if self.memory is None:
            raise FileNotFoundError(f"the worker of the slot '{self.slot}' has ended")
        array = np.ndarray(self.shape, self.dtype, self.memory.buf, _HEADER).copy()
        self.memory.buf[0] = 0
        return array


class Slots:
    """The slots of a worker process. It makes a new one when none is free."""

    def __init__(self):
        self._memories: list[shared_memory.SharedMemory] = []
        self._lock, self._closed = threading.RLock(), False  # A signal may come in `close`.

    def lend(self, shape: tuple[int, ...], dtype: type) -> tuple[np.ndarray, SharedArrayRef]:
        """Reserves a slot.

        Args:
            shape, dtype: of the array.

        Returns:
            An uninitialized array to write to, and the reference to send.

        Raises:
            SharedMemoryFull: if no slot is free and there is no memory for another one.
        """
        dtype = np.dtype(dtype)
        size = _HEADER + int(np.prod(shape)) * dtype.itemsize
        with self._lock:
            if self._closed:  # A thread still reads, but no process will take the array.
                return np.empty(shape, dtype), SharedArrayRef("", tuple(shape), dtype.str)
            memory = next((m for m in self._memories if not m.buf[0] and m.size >= size), None)
            if memory is None:
                memory = _make(size)
                self._memories.append(memory)
            memory.buf[0] = 1
        array = np.ndarray(shape, dtype, memory.buf, _HEADER)
        return array, SharedArrayRef(memory.name, tuple(shape), dtype.str)

    def close(self) -> None:
        """Releases the slots whose arrays have not arrived."""
        with self._lock:
            self._closed = True
            for memory in self._memories:
                with contextlib.suppress(FileNotFoundError):
                    memory.unlink()


OWN = Slots()  # The slots of this process.


def has_room(workers: int, wanted: int, least: int) -> bool:
    """Returns whether worker processes get the shared memory that they want; logs a warning if not.

    Args:
        workers: number of processes.
        wanted, least: bytes of slots that one of them wants, and needs at least.

    Raises:
        SharedMemoryFull: if there is less than the least.
    """
    wanted, least, free = wanted + _QUEUES, least + _QUEUES, _free()
    if free is None or free >= workers * wanted:
        return True
    if free < workers * least:
        raise SharedMemoryFull(
            f"data.workers={workers} need at least {workers * least:,} bytes of shared memory, "
            f"{least:,} each, and {_FOLDER} has {free:,} free, enough for {free // least}: {_HELP}"
        )
    _log.warning(
        "data workers read less far ahead: %s has %s bytes free, %s are needed",
        _FOLDER,
        f"{free:,}",
        f"{workers * wanted:,}",
    )
    return False


def _free() -> int | None:
    """Returns the free bytes of shared memory, or None if unknown."""
    try:
        return shutil.disk_usage(_FOLDER).free
    except OSError:
        return None


_open: weakref.WeakValueDictionary[str, shared_memory.SharedMemory] = weakref.WeakValueDictionary()


def _arrive(slot: str, shape: tuple[int, ...], dtype: str) -> SharedArrayRef:
    """Opens the memory of an array that a worker has sent."""
    memory = _open.get(slot)
    if memory is None:
        with contextlib.suppress(FileNotFoundError):
            memory = _open[slot] = shared_memory.SharedMemory(slot)
            memory.unlink()  # Both processes have it open; nothing stays, however they end.
    return SharedArrayRef(slot, shape, dtype, memory)


def _make(size: int) -> shared_memory.SharedMemory:
    memory = None
    try:
        memory = shared_memory.SharedMemory(create=True, size=size)
        if hasattr(os, "posix_fallocate"):  # Not on macOS.
            os.posix_fallocate(memory._fd, 0, size)
    except OSError as error:
        if memory is not None:
            memory.close()
            memory.unlink()
        if error.errno not in (errno.ENOSPC, errno.ENOMEM):
            raise
        raise SharedMemoryFull(
            f"a data worker needs {size:,} more bytes of shared memory for a batch and {_FOLDER} "
            f"has {_free() or 0:,} free: {_HELP}"
        ) from None
    return memory
