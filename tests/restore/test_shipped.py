"""The network that ships: these tests read the real file."""

import io
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from codeformer_jax.convert import read_about
from codeformer_jax.data.images import write_image
from codeformer_jax.data.synthetic import draw_group, render_face
from codeformer_jax.restore import (
    PhotoOptions,
    RestoreOptions,
    Restorer,
    embedded,
    restore_files,
)
from configs import photos128

ROOT = Path(__file__).resolve().parents[2]
SIDE = 128
# The command, in a process that cannot connect to anything.
OFFLINE = """
import socket, sys
from codeformer_jax import cli

def refuse(*args):
    raise OSError("this test has no network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def shipped():
    return Restorer.load(batch_size=8)


def test_it_is_small_and_in_16_bits():
    assert embedded.FILE.stat().st_size <= 12e6
    with safe_open(embedded.FILE, framework="numpy") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118


def test_it_says_what_made_it():
    about = read_about(embedded.FILE)
    assert {"commit", "config", "data", "licence", "step"} <= about.keys()
    assert re.fullmatch("[0-9a-f]{40}", about["commit"])
    assert (ROOT / about["config"].partition(":")[0]).is_file()
    assert int(about["step"]) > 0
    assert about["licence"] in embedded.DESCRIPTION
    assert f" {SIDE} px," in embedded.DESCRIPTION


def test_its_default_weight_is_that_of_its_training(shipped, tmp_path):
    config = read_about(embedded.FILE)["config"].partition(":")[2]
    assert {row["w"] for row in photos128.get_config(config).schedule} == {shipped.w} == {1.0}
    picture = draw_group(0, 240, 400).image
    expected = shipped.restore_photo(picture, w=1).pixels
    np.testing.assert_array_equal(shipped.restore_photo(picture).pixels, expected)
    write_image(tmp_path / "group.png", picture)
    for name, options, w in (("default", {}, 1.0), ("given", {"w": 0.25}, 0.25)):
        out = tmp_path / name
        restore_files([tmp_path / "group.png"], out, RestoreOptions(**options), PhotoOptions())
        assert json.loads((out / "group.json").read_text())["settings"]["w"] == w


@pytest.mark.parametrize("side", [256, 512, 1024])
def test_a_sharp_square_portrait_stays_as_it_is(shipped, tmp_path, side):
    portrait = render_face(0, side)
    write_image(tmp_path / "portrait.png", portrait)
    restore_files(
        [tmp_path / "portrait.png"], tmp_path / "out", photo=PhotoOptions(), restorer=shipped
    )
    result = np.asarray(Image.open(tmp_path / "out" / "portrait.png"))
    assert np.abs(result.astype(int) - portrait).max() <= 2


def degraded(face, seed):
    """A face at a quarter of its size, with noise and JPEG, and enlarged again."""
    small = np.asarray(Image.fromarray(face).resize((SIDE // 4, SIDE // 4), Image.Resampling.BOX))
    noise = np.random.default_rng(seed).normal(0, 10, small.shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(small + noise, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def test_restored_drawn_faces_are_nearer_to_the_truth(shipped):
    faces = np.stack([render_face(identity, SIDE) for identity in range(8)])
    inputs = np.stack([degraded(face, seed) for seed, face in enumerate(faces)])
    restored = shipped(inputs, w=1)
    assert shipped.image_size == SIDE
    gains = [psnr(r, f) - psnr(i, f) for r, i, f in zip(restored, inputs, faces, strict=True)]
    assert np.mean(gains) > 0.3, gains


def test_the_command_needs_no_network_no_cache_and_a_minute_of_one_core(tmp_path):
    write_image(tmp_path / "group.png", draw_group(0, 240, 400).image)
    # A user's compiler flags.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment["JAX_COMPILATION_CACHE_DIR"] = ""
    words = [sys.executable, "-c", OFFLINE, "restore", "group.png", "-o", "out"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == embedded.DESCRIPTION
    assert (tmp_path / "out" / "group.png").exists()
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 60
