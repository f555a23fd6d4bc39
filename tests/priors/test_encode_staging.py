"""Codes that are not complete: one process at a time, and publications that were cut off."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
from encoding import Breaking, entries, faces, run_encode

from codeformer_jax.checkpoints.teachers import teacher_of
from codeformer_jax.checkpoints.trained import load_trained
from codeformer_jax.data.code_staging import Staging
from codeformer_jax.data.precomputed_codes import Codes


@pytest.fixture(scope="module")
def teacher(stages):
    workdir = stages[0] / "vqgan"
    return teacher_of(load_trained(workdir), workdir)


def test_two_processes_do_not_write_the_same_codes(tmp_path, teacher):
    (tmp_path / ".codes.partial").mkdir()
    script = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX);"
        "print('locked', flush=True); sys.stdin.read()"
    )
    lock = tmp_path / ".codes.partial/lock"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script, lock], **pipes) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(
            BlockingIOError, match=r"another process is writing '.*\.codes\.partial'"
        ):
            run_encode(faces(5), tmp_path / "codes", teacher)
        assert entries(tmp_path / ".codes.partial") == ["lock"]
        other.stdin.close()
    run_encode(faces(5), tmp_path / "codes", teacher)
    assert entries(tmp_path) == ["codes"]


def test_a_lock_whose_file_was_just_published_away_is_not_ours(tmp_path, monkeypatch):
    flock = fcntl.flock

    def late(file, how):
        (tmp_path / ".codes.partial/lock").unlink()
        return flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with (
        pytest.raises(BlockingIOError, match="another process is writing"),
        Staging.locked(tmp_path / "codes"),
    ):
        pass


class Killed(BaseException):
    """In place of a signal that cannot be caught."""


def killed_while_publishing(tmp_path, teacher, monkeypatch):
    """OUT was moved aside and its successor not yet into its place."""
    run_encode(faces(5), tmp_path / "codes", teacher)
    rename = Path.rename

    def die(path, to):
        if path.name == "codes" and path.parent.name == ".codes.partial":
            raise Killed
        return rename(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die)
        patch.setattr(Staging, "_mend", lambda _: None)
        with pytest.raises(Killed):
            run_encode(faces(6), tmp_path / "codes", teacher, force=True)
    assert entries(tmp_path) == [".codes.partial"]
    assert entries(tmp_path / ".codes.partial") == ["codes", "lock", "old"]


def test_a_killed_publication_is_mended_by_the_next_command(tmp_path, teacher, monkeypatch):
    killed_while_publishing(tmp_path, teacher, monkeypatch)
    with pytest.raises(FileExistsError, match="pass --force"):
        run_encode(faces(6), tmp_path / "codes", teacher)
    assert len(Codes(tmp_path / "codes")) == 5
    again = Breaking(faces(6), names=[repr(faces(6))])
    run_encode(again, tmp_path / "codes", teacher, force=True)
    assert again.read == [0]  # All of its shards are there.
    assert len(Codes(tmp_path / "codes")) == 6
    assert entries(tmp_path) == ["codes"]


def test_a_failed_publication_leaves_what_was_there(tmp_path, teacher, monkeypatch):
    run_encode(faces(5), tmp_path / "codes", teacher)
    rename = Path.rename

    def fail(path, to):
        if path.parent.name == ".codes.partial" and path.name == "codes":
            raise OSError("Input/output error")
        return rename(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match="Input/output"):
            run_encode(faces(6), tmp_path / "codes", teacher, force=True)
    assert len(Codes(tmp_path / "codes")) == 5


def test_codes_that_appear_meanwhile_are_not_replaced(tmp_path, teacher):
    class Slow(Breaking):
        def __getitem__(self, index):
            if index == 4:
                (tmp_path / "codes").mkdir(exist_ok=True)
                (tmp_path / "codes/mine").write_text("mine")
            return super().__getitem__(index)

    with pytest.raises(FileExistsError, match="exists"):
        run_encode(Slow(faces(5)), tmp_path / "codes", teacher)
    assert entries(tmp_path / "codes") == ["mine"]
