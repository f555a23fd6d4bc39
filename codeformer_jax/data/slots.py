"""Arrays from worker processes, handed over in shared memory that is used again.

The system clears shared memory page by page when it is first touched. Made anew for every batch,
as grain does it, that and the copy into it cost a worker a third of its time.
"""

import contextlib
import dataclasses
import threading
from multiprocessing import shared_memory

import numpy as np

_HEADER = 64  # Bytes before an array: the first is 1 from when it is lent until it was taken.


@dataclasses.dataclass(frozen=True)
class Lent:
    """An array in a slot, as it travels to the process that takes it."""

    slot: str
    shape: tuple[int, ...]
    dtype: str


class Slots:
    """The slots of a worker process; more are made where none is free."""

    def __init__(self):
        self._memories: list[shared_memory.SharedMemory] = []
        self._lock, self._closed = threading.RLock(), False  # A signal may come in `close`.

    def lend(self, shape: tuple[int, ...], dtype: type) -> tuple[np.ndarray, Lent]:
        """An array to write to, of any content, and what to send instead of it."""
        dtype = np.dtype(dtype)
        size = _HEADER + int(np.prod(shape)) * dtype.itemsize
        with self._lock:
            if self._closed:  # A thread that still reads: nobody will take it.
                return np.empty(shape, dtype), Lent("", tuple(shape), dtype.str)
            memory = next((m for m in self._memories if not m.buf[0] and m.size >= size), None)
            if memory is None:
                memory = shared_memory.SharedMemory(create=True, size=size)
                self._memories.append(memory)
            memory.buf[0] = 1
        array = np.ndarray(shape, dtype, memory.buf, _HEADER)
        return array, Lent(memory.name, tuple(shape), dtype.str)

    def close(self) -> None:
        """Gives the names back of slots that nobody took an array from."""
        with self._lock:
            self._closed = True
            for memory in self._memories:
                with contextlib.suppress(FileNotFoundError):
                    memory.unlink()


OWN = Slots()  # Of this process.


class Taker:
    """Takes arrays out of the slots of any number of workers, and frees the slots."""

    def __init__(self):
        self._memories: dict[str, shared_memory.SharedMemory] = {}

    def take(self, lent: Lent) -> np.ndarray:
        """A copy of the array, which is the caller's own."""
        memory = self._memories.get(lent.slot)
        if memory is None:
            memory = shared_memory.SharedMemory(lent.slot)
            self._memories[lent.slot] = memory
            with contextlib.suppress(FileNotFoundError):
                memory.unlink()  # Both processes have it; so nothing stays, however they end.
        array = np.ndarray(lent.shape, lent.dtype, memory.buf, _HEADER).copy()
        memory.buf[0] = 0
        return array
