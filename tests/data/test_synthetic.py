"""Synthetic faces: fixed by identity, alike at every size, never shared between splits."""

import hashlib
import pickle
import subprocess
import sys

import grain
import numpy as np
import pytest

from codeformer_jax.data.synthetic import PICTURES_PER_SEED, SyntheticFaces, render_face
from codeformer_jax.data.synthetic.identity import draw_face
from codeformer_jax.data.synthetic.shapes import Canvas, Outline, band, cover, melt, polygon

# Channel means and standard deviations of render_face(identity, 64), from this renderer.
GOLDEN = {
    0: (102.9, 99.2, 97.8, 61.4, 57.1, 61.2),
    1: (132.8, 112.4, 107.0, 53.6, 49.3, 51.2),
    6: (140.6, 110.3, 81.5, 50.9, 57.0, 45.4),
    13: (103.8, 96.3, 92.9, 61.1, 55.4, 54.3),
    38: (174.7, 169.3, 155.1, 59.0, 61.4, 51.1),
    101: (140.5, 124.2, 121.9, 69.8, 73.2, 81.7),
}


def _halve(image: np.ndarray, factor: int) -> np.ndarray:
    size = image.shape[0] // factor
    return image.astype(np.float64).reshape(size, factor, size, factor, 3).mean((1, 3))


def _psnr(first: np.ndarray, second: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((first - second) ** 2)))


def test_golden_statistics():
    for identity, expected in GOLDEN.items():
        image = render_face(identity, 64).astype(np.float64)
        found = np.concatenate([image.mean((0, 1)), image.std((0, 1))])
        np.testing.assert_allclose(found, expected, atol=1.0, err_msg=f"identity {identity}")


@pytest.mark.parametrize("size", [16, 33, 64, 200])
def test_shape_and_range(size):
    image = render_face(7, size)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.std() > 20


def test_same_bytes_again_and_in_another_process():
    here = hashlib.sha256(b"".join(render_face(k, 48).tobytes() for k in range(12))).hexdigest()
    again = hashlib.sha256(b"".join(render_face(k, 48).tobytes() for k in range(12))).hexdigest()
    code = (
        "import hashlib; from codeformer_jax.data.synthetic import render_face;"
        "print(hashlib.sha256(b''.join(render_face(k, 48).tobytes() for k in range(12)))"
        ".hexdigest())"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert here == again == elsewhere


@pytest.mark.parametrize("identity", range(100, 116))
def test_size_does_not_change_the_face(identity):
    small, large = render_face(identity, 64), render_face(identity, 256)
    other = render_face(identity + 16, 64)
    alike = _psnr(small, _halve(large, 4))
    assert alike > 30
    assert alike > _psnr(small, other.astype(np.float64)) + 10


def test_faces_differ():
    faces = np.stack([_halve(render_face(k, 64), 4).ravel() for k in range(60)])
    distances = np.sqrt(((faces[:, None] - faces[None]) ** 2).mean(-1))
    assert distances[~np.eye(60, dtype=bool)].min() > 8


def test_population_is_varied():
    faces = [draw_face(identity) for identity in range(600)]
    assert len({face.hair.style for face in faces}) >= 14
    assert {face.beard.kind for face in faces} >= {"none", "stubble", "full", "moustache"}
    assert {face.glasses.kind for face in faces} == {"none", "round", "square", "aviator"}
    assert {face.background.kind for face in faces} == {"plain", "bokeh", "panels", "horizon"}
    tones = np.array([face.skin.tone for face in faces])
    assert np.histogram(tones, 5, (0, 1))[0].min() > 60
    glasses = np.mean([face.glasses.kind != "none" for face in faces])
    assert 0.15 < glasses < 0.4


def test_eyes_sit_where_ffhq_puts_them():
    # On average pupils are the darkest part of a box that leaves out brows and outer lashes.
    dark = np.zeros((64, 64))
    for identity in range(90):
        face = draw_face(identity)
        if face.glasses.kind == "none" and not face.hair.length and face.skin.tone < 0.6:
            dark += 255.0 - render_face(identity, 64).mean(-1)
    for columns, expected in ((slice(21, 29), 0.377), (slice(35, 43), 0.623)):
        spot = dark[27:33, columns]
        row, column = np.unravel_index(spot.argmax(), spot.shape)
        assert abs((row + 27.5) / 64 - 0.47) < 0.025
        assert abs((column + columns.start + 0.5) / 64 - expected) < 0.025


def test_splits_and_seeds_never_share_a_face():
    seen = {}
    for split in ("train", "heldout"):
        for seed in (0, 1, 2):
            source = SyntheticFaces(split, 16, seed=seed)
            last = PICTURES_PER_SEED - 1
            for index in (0, 1, 2, 3, last // 2, last - 1, last):
                seen.setdefault(source.identity(index), []).append((split, seed, index))
    assert all(len(owners) == 1 for owners in seen.values())
    train, heldout = (SyntheticFaces(split, 16) for split in ("train", "heldout"))
    assert all(train.identity(index) % 2 == 0 for index in range(1000))
    assert all(heldout.identity(index) % 2 == 1 for index in range(1000))
    assert not np.array_equal(train[0]["image"], heldout[0]["image"])


def test_record():
    source = SyntheticFaces("train", 32, length=20)
    record = source[np.int64(12)]
    assert set(record) == {"image", "name"}
    assert record["name"] == "synthetic/train/00000012"
    np.testing.assert_array_equal(record["image"], render_face(source.identity(12), 32))
    names = {SyntheticFaces("train", 32, seed=seed).__getitem__(3)["name"] for seed in range(3)}
    assert len(names) == 3


def test_lengths():
    assert len(SyntheticFaces("train", 16)) == PICTURES_PER_SEED
    assert len(SyntheticFaces("train", 16, length=5)) == 5
    assert len(list(SyntheticFaces("heldout", 16, length=3))) == 3
    assert len(SyntheticFaces("train", 16, length=0)) == 0


def test_grain_reads_it():
    source = SyntheticFaces("train", 16, length=6)
    assert isinstance(source, grain.sources.RandomAccessDataSource)
    assert pickle.loads(pickle.dumps(source)) == source
    batches = list(grain.MapDataset.source(source).batch(2))
    assert [batch["image"].shape for batch in batches] == [(2, 16, 16, 3)] * 3
    np.testing.assert_array_equal(batches[1]["image"][1], source[3]["image"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"split": "test"}, "split is 'test'; choose one of train, heldout"),
        ({"size": 15}, "size is 15; .* >= 16"),
        ({"size": True}, "size is True"),
        ({"length": -1}, "length is -1; give an integer from 0 to 1048576"),
        ({"length": PICTURES_PER_SEED + 1}, "length is 1048577"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        SyntheticFaces(**({"split": "train", "size": 64} | fields))


@pytest.mark.parametrize("index", [-1, 4, 10**9])
def test_bad_index(index):
    with pytest.raises(IndexError, match=f"index is {index}; this source has 4 pictures, from 0"):
        SyntheticFaces("train", 16, length=4)[index]


def test_index_of_an_empty_source():
    with pytest.raises(IndexError, match="has 0 pictures"):
        SyntheticFaces("train", 16, length=0)[0]


def test_bad_render_arguments():
    with pytest.raises(ValueError, match="size is 8"):
        render_face(0, 8)
    with pytest.raises(ValueError, match="identity is -1"):
        render_face(-1, 64)


def test_coverage_sums_to_the_area():
    canvas = Canvas.make(np.zeros((3, 100, 100), np.float32), (0.5, 0.5), roll=0.3)
    radius = np.hypot(canvas.x, canvas.y)
    assert abs(cover(radius - 0.3, canvas.px).mean() - np.pi * 0.09) < 1e-4
    # A line far thinner than a pixel keeps its area: 2 pi r times the width.
    ring = band(radius - 0.3, 0.001, canvas.px)
    assert ring.mean() == pytest.approx(2 * np.pi * 0.3 * 0.002, rel=0.01)


def test_polygon_and_outline_distances():
    square = [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]
    x, y = np.array([0.0, 2.0, 0.5], np.float32), np.array([0.0, 0.0, 0.75], np.float32)
    np.testing.assert_allclose(polygon(x, y, square), [-1.0, 1.0, -0.25], atol=1e-6)
    circle = Outline.from_radii(0.0, np.full(256, 0.5))
    np.testing.assert_allclose(circle.distance(x, y), np.hypot(x, y) - 0.5, atol=1e-6)


def test_melt_is_a_union_away_from_the_seam():
    first, second = np.array([0.5, -0.2, 0.0]), np.array([-0.5, 0.4, 0.0])
    np.testing.assert_allclose(melt(first, second, 0.1), [-0.5, -0.2, -0.025], atol=1e-6)


@pytest.mark.parametrize("roll", [0.0, 0.4, -0.4])
def test_windows_hold_their_boxes(roll):
    canvas = Canvas.make(np.zeros((3, 50, 50), np.float32), (0.5, 0.47), roll)
    box = (-0.2, -0.1, 0.25, 0.2)
    inside = (canvas.x > box[0]) & (canvas.x < box[2]) & (canvas.y > box[1]) & (canvas.y < box[3])
    kept = np.zeros_like(inside)
    kept[canvas.box(*box).window] = True
    assert inside.any()
    assert not (inside & ~kept).any()
