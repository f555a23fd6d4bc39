"""Arrays travel between processes through slots that are used again, and leave nothing."""

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from codeformer_jax.data.slots import OWN, Slots, Taker
from codeformer_jax.data.system import end_with_parent

SHAPE = (3, 5, 2)


@pytest.fixture
def slots():
    made = Slots()
    yield made
    made.close()


def lend(slots, value):
    array, lent = slots.lend(SHAPE, np.uint8)
    array[...] = value
    return lent


def exists(lent):
    return Path("/dev/shm", lent.slot).exists()


def test_a_slot_is_used_again_once_it_was_taken(slots):
    taker = Taker()
    first, second = lend(slots, 1), lend(slots, 2)
    assert first.slot != second.slot
    one = taker.take(first)
    third = lend(slots, 3)
    assert third.slot == first.slot
    np.testing.assert_array_equal(one, np.full(SHAPE, 1, np.uint8))  # Its own memory.
    np.testing.assert_array_equal(taker.take(second), np.full(SHAPE, 2, np.uint8))
    np.testing.assert_array_equal(taker.take(third), np.full(SHAPE, 3, np.uint8))


def test_a_larger_array_gets_a_slot_of_its_own(slots):
    small = lend(slots, 1)
    Taker().take(small)
    array, lent = slots.lend((100, 100), np.float32)
    array[...] = 0.5
    assert lent.slot != small.slot
    np.testing.assert_array_equal(Taker().take(lent), np.full((100, 100), 0.5, np.float32))


def test_names_are_gone_once_taken_or_closed(slots):
    taken, left = lend(slots, 1), lend(slots, 2)
    assert exists(taken)
    Taker().take(taken)
    assert not exists(taken)
    slots.close()
    assert not exists(left)
    array, nowhere = slots.lend(SHAPE, np.uint8)  # For a thread that has not noticed.
    array[...] = 1
    assert not nowhere.slot


def work(names):
    end_with_parent(OWN.close)
    for value in range(2):
        names.put(lend(OWN, value))
    signal.pause()


def test_a_process_that_is_ended_takes_its_slots_with_it():
    context = multiprocessing.get_context("spawn")
    names = context.Queue()
    process = context.Process(target=work, args=(names,))
    process.start()
    first, second = names.get(timeout=60), names.get(timeout=60)
    np.testing.assert_array_equal(Taker().take(second), np.full(SHAPE, 1, np.uint8))
    assert exists(first)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 1
    assert not exists(first)
