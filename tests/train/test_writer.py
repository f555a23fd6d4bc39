"""Metrics files and pictures."""

import json

import numpy as np

from codeformer_jax.train.writer import LABEL_HEIGHT, _drop_after, draw_panels


def test_panels_stand_side_by_side_under_their_labels():
    black, white = np.full((2, 32, 32, 3), -1.0), np.full((2, 32, 32, 3), 3.0)
    picture = draw_panels({"input": black, "output": white}, rows=1)
    assert picture.shape == (LABEL_HEIGHT + 128, 256, 3)
    assert picture.dtype == np.uint8
    assert picture[LABEL_HEIGHT:, :128].max() == 0
    assert picture[LABEL_HEIGHT:, 128:].min() == 255
    assert picture[:LABEL_HEIGHT].min() < 255


def test_steps_that_will_be_taken_again_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    entries = [{"step": s, f"{kind}/loss": 1} for s in (1, 2, 3) for kind in ("train", "eval")]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + '{"step": 4, "lo')
    _drop_after(path, 2)
    # The evaluation of step 2 will be done again, its training step will not.
    assert [json.loads(line) for line in path.read_text().splitlines()] == entries[:3]
    _drop_after(tmp_path / "none", 2)
    assert not (tmp_path / "none").exists()
