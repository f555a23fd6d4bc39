import contextlib
import os

import pytest

from codeformer_jax.system.workers import exclusive, usable_cores


def test_no_more_cores_than_the_machine_has():
    assert 1 <= usable_cores() <= os.cpu_count()


def test_a_lock_is_held_once_and_free_again(tmp_path):
    path = tmp_path / "lock"
    with exclusive(path):
        with pytest.raises(BlockingIOError), exclusive(path):
            pass
        path.unlink()
    with exclusive(path):
        assert path.exists()


def test_a_lock_whose_file_was_removed_meanwhile_is_not_taken(tmp_path, monkeypatch):
    """The holder publishes and removes the file between our opening and our locking it."""
    path = tmp_path / "lock"
    stat = os.stat

    def removed(given, *args, **kwargs):
        if given == path:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        return stat(given, *args, **kwargs)

    monkeypatch.setattr(os, "stat", removed)
    with pytest.raises(BlockingIOError, match="removed by another process"), exclusive(path):
        pass
