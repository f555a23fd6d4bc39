"""A full disk while a checkpoint is written."""

import errno
import gc
import json
import shutil

import pytest
from small_disk import small_disk
from states import assert_equal, state_at
from tiny import tiny_vqvae

from codeformer_jax.checkpoints import digests, saving
from codeformer_jax.checkpoints.workdir import saved_steps
from codeformer_jax.system.shared_arrays import SharedMemoryFull
from codeformer_jax.train import loop
from codeformer_jax.train.writer import Writer


@pytest.fixture
def full_disk(tmp_path):
    with small_disk(tmp_path / "disk", "16m") as disk:
        yield disk


# Writes that end after their event loop has closed print an ignored exception each.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_reported_and_what_was_saved_stays(tmp_path, full_disk, monkeypatch, caplog):
    whole = tmp_path / "whole"
    loop.train(tiny_vqvae(), whole)
    workdir = shutil.copytree(whole, full_disk / "run")
    shutil.rmtree(workdir / "checkpoints" / "4")
    gc.collect()  # What other tests left, with its messages.
    caplog.clear()
    original = Writer.train_metrics

    def fill(self, step, metrics):
        original(self, step, metrics)
        if step == 4:
            room = shutil.disk_usage(full_disk).free - 100_000  # The state takes 260,000.
            (full_disk / "other").write_bytes(bytes(room))

    monkeypatch.setattr(Writer, "train_metrics", fill)
    with pytest.raises(
        OSError,
        match=r"No space left on device: '.*run' has [\d,]+ bytes free\. Complete checkpoints are "
        r"intact: .*2\]\. Make room (?s:.*)the same command resumes from step 2",
    ):
        loop.train(tiny_vqvae(), workdir)
    assert 4 not in saved_steps(workdir)
    assert digests.fault(workdir / "checkpoints" / "2") is None
    assert not list((workdir / "checkpoints").glob("*tmp*"))
    goodput = (workdir / "goodput.jsonl").read_text().splitlines()
    assert [json.loads(line)["finished"] for line in goodput] == [True, False]
    gc.collect()
    assert "never retrieved" not in caplog.text  # By asyncio, of every array of the state.
    (full_disk / "other").unlink()
    monkeypatch.setattr(Writer, "train_metrics", original)
    loop.train(tiny_vqvae(), workdir)
    assert_equal(state_at(workdir, 4), state_at(whole, 4))


def test_a_full_disk_is_recognized_behind_other_errors(tmp_path):
    error = ValueError("saving failed")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    message = r"Make room there .*/dev/shm.* command starts again"
    with pytest.raises(OSError, match=message) as found, saving.full_disk_explained(tmp_path):
        raise error
    assert found.value.errno == errno.ENOSPC


def test_other_errors_pass(tmp_path):
    for error in (SharedMemoryFull("of the workers"), ValueError("of a setting")):
        with pytest.raises(type(error)) as found, saving.full_disk_explained(tmp_path):
            raise error
        assert found.value is error
