"""docs/compare.md is a program: its blocks run in order, as they stand."""

import re
from pathlib import Path
from unittest import mock

import jax
import pytest

from codeformer_jax.convert import NETWORKS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "compare.md"


def test_every_block_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch").set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 7
    names = {"__name__": "port"}
    # JAX's own defaults, in place of those of the tests.
    with (
        mock.patch.dict(NETWORKS),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)
    # The verdict that the page quotes, without its numbers.
    quoted = re.search(r"^```text\n(first layer.*?)^```$", page, re.MULTILINE | re.DOTALL)[1]
    words = re.split(r"[-\d.,]*\d[-\de.,]*", quoted.strip())
    printed = capsys.readouterr().out
    assert all(word in printed for word in words if word.strip())
