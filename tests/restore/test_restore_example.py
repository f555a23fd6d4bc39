"""examples/restore_photo.py, run as it stands."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from codeformer_jax.data.synthetic import draw_group

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "restore_photo.py"


@pytest.mark.usefixtures("embedded_network")
@pytest.mark.parametrize("named", [False, True])
def test_restores_a_group(named, model_file, tmp_path, monkeypatch, capsys):
    photo, result = tmp_path / "photo.png", tmp_path / "result.png"
    group = Image.fromarray(draw_group(0, 240, 400).image)
    blurred = group.filter(ImageFilter.GaussianBlur(4))  # Sharp faces would stay as they are.
    blurred.save(photo)
    words = [str(photo), str(result), *(["--model", str(model_file)] if named else [])]
    monkeypatch.setattr(sys, "argv", [str(PROGRAM), *words])
    runpy.run_path(str(PROGRAM), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(line.endswith(": restored") for line in lines)
    changed = np.any(np.asarray(Image.open(result)) != np.asarray(blurred), axis=-1)
    assert 0.01 < changed.mean() < 0.5
