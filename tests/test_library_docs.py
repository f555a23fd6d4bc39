"""docs/library.md is a program: its blocks run in order, as they stand."""

import re
from pathlib import Path

import jax

PAGE = Path(__file__).resolve().parents[1] / "docs" / "library.md"


def test_every_block_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    names = {"__name__": "library"}
    # JAX's own defaults, in place of those of the tests.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)
