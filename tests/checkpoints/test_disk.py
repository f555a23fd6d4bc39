"""A full disk while a checkpoint is written."""

import errno
import gc
import shutil

import numpy as np
import pytest
from small_disk import small_disk
from states import assert_equal, state_at
from tiny import tiny_config

from codeformer_jax.checkpoints import digests, disk
from codeformer_jax.checkpoints.workdir import saved_steps
from codeformer_jax.system.shared_arrays import SharedMemoryFull
from codeformer_jax.train import loop
from codeformer_jax.train.writer import Writer


@pytest.fixture
def full_disk(tmp_path):
    with small_disk(tmp_path / "disk", "16m") as disk:
        yield disk


def test_a_full_disk_is_told_of_and_what_was_saved_stays(stages, full_disk, monkeypatch, caplog):
    workdir = shutil.copytree(stages[0] / "vqgan", full_disk / "run")
    shutil.rmtree(workdir / "checkpoints" / "4")
    gc.collect()  # What other tests left, with its messages.
    caplog.clear()
    original = Writer.train_metrics

    def fill(self, step, metrics):
        original(self, step, metrics)
        if step == 4:
            room = shutil.disk_usage(full_disk).free - 500_000
            (full_disk / "other").write_bytes(bytes(room))

    monkeypatch.setattr(Writer, "train_metrics", fill)
    with pytest.raises(
        OSError,
        match=r"No space left on device: '.*run' has [\d,]+ bytes free, a checkpoint takes about "
        r"[\d,]+\. Complete .*2\]\. Make room; the same command goes on from step 2",
    ):
        loop.train(tiny_config("vqgan"), workdir)
    assert 4 not in saved_steps(workdir)
    assert digests.fault(workdir / "checkpoints" / "2") is None
    assert not list((workdir / "checkpoints").glob("*tmp*"))
    gc.collect()
    assert "never retrieved" not in caplog.text  # By asyncio, of every array of the state.
    (full_disk / "other").unlink()
    monkeypatch.setattr(Writer, "train_metrics", original)
    loop.train(tiny_config("vqgan"), workdir)
    assert_equal(state_at(workdir, 4), state_at(stages[0] / "vqgan", 4))


def test_another_full_file_system_is_not_taken_for_the_workdirs(tmp_path):
    state = {"a": np.zeros(3, np.float32)}
    for error, kind, told in (
        (OSError(errno.ENOSPC, "No space"), OSError, r"Look for another .*/dev/shm.*; start again"),
        (SharedMemoryFull("it is that of the workers"), SharedMemoryFull, "of the workers"),
    ):
        with pytest.raises(kind, match=told), disk.full_disk_explained(tmp_path, state):
            raise error
