"""Checkpoints in a bucket that does not answer, or only in part."""

import json

import pytest
from etils.epath import backend

from codeformer_jax.checkpoints import digests
from codeformer_jax.checkpoints.recover import move_damaged
from codeformer_jax.checkpoints.workdir import COMMITTED, saved_steps, stored_rank, unfinished_saves
from codeformer_jax.system import storage
from codeformer_jax.system.storage import to_path
from codeformer_jax.tasks import BestScore


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


def test_scores_that_cannot_be_fetched_are_not_bad_ones(run, object_store, monkeypatch):
    best = BestScore("psnr", smallest=False)
    checkpoint = run / "checkpoints" / "2"
    (checkpoint / "metrics" / "metrics").write_text(json.dumps({"psnr": 20.0}))
    assert stored_rank(checkpoint, best) == 20
    monkeypatch.setattr(storage.filesystem(run), "requests_timeout", 0.2)
    monkeypatch.setattr(backend.fsspec_backend.fs(str(run)), "requests_timeout", 0.2)
    object_store.fail("slow", times=1000, seconds=1)
    with pytest.raises(OSError):  # noqa: PT011  Its text is empty.
        stored_rank(checkpoint, best)


def test_a_damaged_checkpoint_moves_away_whole(run, object_store):
    for content in (b"first", b"second"):  # The second replaces the first.
        checkpoint = run / "checkpoints" / "2"
        for name in ("arrays", "default/x", COMMITTED):
            (checkpoint / name).write_bytes(content)
        move_damaged(run, {"2": "a reason"}, 0)
        assert saved_steps(run) == object_store.names(str(checkpoint)) == []
        assert {"arrays", "default/x"} <= set(object_store.names(f"{run}/damaged/2"))
        assert object_store.read(f"{run}/damaged/2/arrays") == content


@pytest.mark.parametrize("kind", ["busy", "cut"])
def test_a_bucket_that_does_not_answer_is_neither_empty_nor_damaged(run, object_store, waits, kind):
    object_store.fail(kind, times=1000)
    with pytest.raises(Exception, match=r"503|[Dd]isconnected"):
        saved_steps(run)
    with pytest.raises(Exception, match=r"503|[Dd]isconnected"):
        digests.fault(run / "checkpoints" / "2")
    for look in (run.is_dir, run.exists, (run / "checkpoints/2" / COMMITTED).is_file):
        with pytest.raises(OSError, match=r"cannot be looked up: .*(503|[Dd]isconnected)"):
            look()
    assert waits
    object_store.faults.clear()
    assert saved_steps(run) == [2]
    assert digests.fault(run / "checkpoints" / "2") is None
