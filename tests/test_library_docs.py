"""docs/library.md is a program: its blocks run in their order, as they stand."""

import re
from pathlib import Path

import jax

PAGE = Path(__file__).resolve().parents[1] / "docs" / "library.md"


def test_every_block_runs():
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    names = {"__name__": "library"}
    # As a user's JAX is set, not as these tests set it.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)
