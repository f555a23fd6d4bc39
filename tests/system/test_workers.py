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
