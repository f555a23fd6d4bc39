"""Arrays travel between processes in reused slots and leave nothing."""

import errno
import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from codeformer_jax.system import shared_arrays as slots_module
from codeformer_jax.system.shared_arrays import (
    OWN,
    SharedMemoryFull,
    Slots,
    has_room,
)
from codeformer_jax.system.workers import end_with_parent

SHAPE = (3, 5, 2)


@pytest.fixture
def slots():
    made = Slots()
    yield made
    made.close()


def lend(slots, value, shape=SHAPE, dtype=np.uint8):
    """Returns the reference to an array as it arrives."""
    array, lent = slots.lend(shape, dtype)
    array[...] = value
    return sent(lent)


def sent(lent):
    return pickle.loads(pickle.dumps(lent))


def exists(lent):
    return Path("/dev/shm", lent.slot).exists()


def test_a_slot_is_reused_after_it_was_taken(slots):
    first, second = lend(slots, 1), lend(slots, 2)
    assert first.slot != second.slot
    one = first.take()
    third = lend(slots, 3)
    assert third.slot == first.slot
    np.testing.assert_array_equal(one, np.full(SHAPE, 1, np.uint8))  # Its own memory.
    np.testing.assert_array_equal(second.take(), np.full(SHAPE, 2, np.uint8))
    np.testing.assert_array_equal(third.take(), np.full(SHAPE, 3, np.uint8))


def test_a_larger_array_gets_a_slot_of_its_own(slots):
    small = lend(slots, 1)
    small.take()
    lent = lend(slots, 0.5, (100, 100), np.float32)
    assert lent.slot != small.slot
    np.testing.assert_array_equal(lent.take(), np.full((100, 100), 0.5, np.float32))


def test_names_are_gone_once_arrived_or_closed(slots):
    array, lent = slots.lend(SHAPE, np.uint8)
    array[...] = 1
    _, left = slots.lend(SHAPE, np.uint8)
    assert exists(lent)
    arrived = sent(lent)
    assert not exists(lent)
    slots.close()
    assert not exists(left)
    np.testing.assert_array_equal(arrived.take(), np.full(SHAPE, 1, np.uint8))
    with pytest.raises(FileNotFoundError, match="has ended"):
        sent(left).take()
    array, nowhere = slots.lend(SHAPE, np.uint8)  # For a thread that has not noticed.
    array[...] = 1
    assert not nowhere.slot


def test_pages_are_reserved_and_their_lack_is_an_error(slots, monkeypatch):
    """The error does not blame the disk of the workdir."""
    before = set(os.listdir("/dev/shm"))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        SharedMemoryFull, match=r"94 more bytes .*/dev/shm has .*--shm-size.*lower data\.workers"
    ) as caught:
        slots.lend(SHAPE, np.uint8)
    assert set(os.listdir("/dev/shm")) <= before
    assert caught.value.errno is None
    assert "No space" not in str(caught.value)
    assert "lower data.workers" in str(sent(caught.value))  # From the worker.
    monkeypatch.undo()
    _, lent = slots.lend((2**20,), np.uint8)
    assert Path("/dev/shm", lent.slot).stat().st_blocks * 512 >= 2**20


def test_workers_get_fewer_slots_or_are_refused(monkeypatch, caplog):
    monkeypatch.setattr(slots_module, "_free", lambda: 2**20)
    assert has_room(2, 300_000, 100_000)
    assert not caplog.text
    assert not has_room(2, 400_000, 300_000)
    assert "read less far ahead: /dev/shm has 1,048,576 bytes free, 1,062,144 are" in caplog.text
    with pytest.raises(
        SharedMemoryFull, match=r"data\.workers=9 need at least .* free, enough for 2: give the "
    ):
        has_room(9, 400_000, 300_000)
    monkeypatch.setattr(slots_module, "_free", lambda: None)
    assert has_room(9, 400_000, 300_000)


def work(names):
    end_with_parent(OWN.close)
    for value in range(2):
        array, lent = OWN.lend(SHAPE, np.uint8)
        array[...] = value
        names.put(lent if value else lent.slot)  # Of the first only the name arrives.
    while True:  # Not one pause, which a signal just before it does not end.
        time.sleep(0.05)


def test_a_process_that_is_ended_takes_its_slots_with_it():
    context = multiprocessing.get_context("spawn")
    names = context.Queue()
    process = context.Process(target=work, args=(names,))
    process.start()
    first, second = names.get(timeout=60), names.get(timeout=60)
    np.testing.assert_array_equal(second.take(), np.full(SHAPE, 1, np.uint8))
    assert Path("/dev/shm", first).exists()
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 1
    assert not Path("/dev/shm", first).exists()
