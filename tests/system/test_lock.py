"""One run at a time in a workdir."""

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_config

from codeformer_jax.system import hosts
from codeformer_jax.system.lock import LOCK_FILE, locked
from codeformer_jax.train import loop

ROOT = Path(__file__).resolve().parents[2]
KILLED = """
import os, pathlib, signal, sys
from codeformer_jax.system.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_second_run_is_refused_and_names_the_holder(tmp_path):
    workdir = tmp_path / "run"
    holder = rf"process {os.getpid()} on {re.escape(socket.gethostname())}, started \d{{4}}-"
    with locked(workdir):
        before = (workdir / LOCK_FILE).read_bytes()
        with pytest.raises(OSError, match=rf"run is in use by {holder}.* another --workd"):
            loop.train(tiny_config("vqgan"), workdir)
        assert (workdir / LOCK_FILE).read_bytes() == before
        assert [path.name for path in workdir.iterdir()] == [LOCK_FILE]
    with locked(workdir):
        pass


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_holder_whose_name_cannot_be_read(tmp_path, content):
    with locked(tmp_path):
        file = tmp_path / LOCK_FILE
        file.unlink() if content is None else file.write_bytes(content)

        def held(path):
            raise BlockingIOError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("codeformer_jax.system.lock.exclusive", held)
            with pytest.raises(OSError, match="is in use by another process"), locked(tmp_path):
                pass


def test_the_first_process_decides_for_all(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "from_main", lambda *_: "run is in use by a process of host a")
    with pytest.raises(OSError, match="of host a"), locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_only_what_was_made_for_the_lock_is_removed(tmp_path):
    with locked(tmp_path / "sweep" / "run"):
        pass
    assert not any(tmp_path.iterdir())
    with locked(tmp_path / "sweep" / "run"):
        (tmp_path / "sweep" / "run" / "config.json").touch()
    assert [p.name for p in (tmp_path / "sweep" / "run").iterdir()] == ["config.json"]


@pytest.mark.slow
def test_the_lock_of_a_killed_run_is_taken_over(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "run")]
    done = subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == -signal.SIGKILL
    left = (tmp_path / "run" / LOCK_FILE).read_text()
    with locked(tmp_path / "run"):
        text = (tmp_path / "run" / LOCK_FILE).read_text()
        assert text.startswith(f"process {os.getpid()} on ")
        assert len(text.splitlines()) == len(left.splitlines()) == 1


def test_a_workdir_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/run cannot be written: .*File exists"):
        loop.train(tiny_config("vqgan"), tmp_path / "file" / "run")


def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path / "run"):
        assert not (tmp_path / "run" / LOCK_FILE).exists()
    assert "cannot be locked" in caplog.text
