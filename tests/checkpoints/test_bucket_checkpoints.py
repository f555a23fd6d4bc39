"""Checkpoints in a bucket that does not answer, or only in part."""

import pytest

from codeformer_jax.checkpoints import digests
from codeformer_jax.checkpoints.workdir import COMMITTED, saved_steps, unfinished_saves
from codeformer_jax.system.storage import to_path


@pytest.fixture
def run(bucket):
    workdir = to_path(bucket)
    for step in (2, 4):
        checkpoint = workdir / "checkpoints" / str(step)
        (checkpoint / "arrays").write_bytes(b"x" * step)
        digests.write(checkpoint)
    (workdir / "checkpoints" / "2" / COMMITTED).write_text("")
    return workdir


def test_a_step_counts_once_it_is_committed(run):
    assert saved_steps(run) == [2]
    assert [path.name for path in unfinished_saves(run)] == ["4"]
    assert saved_steps(run / "elsewhere") == []


def test_a_file_that_changes_or_goes_is_damage(run):
    checkpoint = run / "checkpoints" / "2"
    assert digests.fault(checkpoint) is None
    (checkpoint / "arrays").write_bytes(b"y")
    assert digests.fault(checkpoint) == "arrays has changed since it was written"
    (checkpoint / "arrays").unlink()
    assert "FileNotFoundError" in digests.fault(checkpoint)


@pytest.mark.parametrize("kind", ["busy", "cut"])
def test_a_bucket_that_does_not_answer_is_neither_empty_nor_damaged(run, object_store, waits, kind):
    object_store.fail(kind, times=1000)
    with pytest.raises(Exception, match=r"503|[Dd]isconnected"):
        saved_steps(run)
    with pytest.raises(Exception, match=r"503|[Dd]isconnected"):
        digests.fault(run / "checkpoints" / "2")
    assert waits
    object_store.faults.clear()
    assert saved_steps(run) == [2]
    assert digests.fault(run / "checkpoints" / "2") is None
