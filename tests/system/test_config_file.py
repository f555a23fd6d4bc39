"""Config files that a command names."""

import sys

import pytest

from codeformer_jax.system.config_file import load_config


def test_a_config_takes_an_argument_and_leaves_the_search_path(tmp_path):
    path, before = tmp_path / "config.py", list(sys.path)
    path.write_text("def get_config(argument='none'):\n    return argument\n")
    assert load_config(str(path)) == "none"
    assert load_config(f"{path}:fast") == "fast"
    assert sys.path == before


def test_a_file_that_is_no_config_is_refused(tmp_path):
    path = tmp_path / "values.py"
    with pytest.raises(FileNotFoundError, match=r"no config '.*values\.py'"):
        load_config(str(path))
    path.write_text("steps = 3\n")
    with pytest.raises(ValueError, match=r"config '.*values\.py' has no function get_config"):
        load_config(str(path))
