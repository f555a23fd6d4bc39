"""A folder of pictures with a place for its dataset."""

import pytest
from prepare.support import Room


@pytest.fixture
def room(tmp_path):
    return Room(tmp_path / "faces", tmp_path / "out")


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of 4 images, in this process."""
    monkeypatch.setattr("codeformer_jax.prepare.build_plan.MIN_SHARD_IMAGES", 4)
