"""SFace: the same person and another."""

import pathlib
import sys

import cv2
import numpy as np
import pytest

from codeformer_jax.data.synthetic import render_face
from codeformer_jax.faces import identity
from codeformer_jax.faces.detect import DETECTORS
from codeformer_jax.faces.face import apply, template
from codeformer_jax.faces.identity import SAME_PERSON, Identity

PORTRAITS = pathlib.Path(__file__).parents[3] / "shared" / "faces" / "portraits"
SIZE = 160
POINTS = template(SIZE)


@pytest.fixture(scope="module")
def network():
    return Identity.load()


def test_the_same_person_and_another(network):
    pictures = [render_face(i, SIZE) for i in range(4)]
    vectors = [network.embed(picture, POINTS) for picture in pictures]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    for i, picture in enumerate(pictures):
        noise = np.random.default_rng(i).normal(0, 8, picture.shape)
        blurred = cv2.GaussianBlur(picture, (0, 0), 1.5) + noise
        degraded = network.embed(np.clip(blurred, 0, 255).astype(np.uint8), POINTS)
        likeness = [network.cosine(degraded, vector) for vector in vectors]
        assert np.argmax(likeness) == i
        assert likeness[i] > SAME_PERSON
    assert network.cosine(vectors[0], vectors[0]) == pytest.approx(1, abs=1e-6)


@pytest.mark.skipif(not PORTRAITS.is_dir(), reason="needs the portraits in ../shared/faces")
def test_portraits_of_one_person_and_of_two(network):
    find = DETECTORS["yunet"](None, None)
    vectors = []
    for name in ("female_0", "male_0"):
        portrait = cv2.imread(str(PORTRAITS / f"{name}.jpg"))[..., ::-1]
        small = cv2.resize(portrait, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        vectors += [
            network.embed(picture, find(picture)[0].points) for picture in (portrait, small)
        ]
    woman, small_woman, man, small_man = vectors
    assert network.cosine(woman, small_woman) > 0.8
    assert network.cosine(man, small_man) > 0.8
    assert network.cosine(woman, man) < SAME_PERSON


def test_the_place_of_the_face_does_not_matter(network):
    picture = render_face(1, SIZE)
    turn = cv2.getRotationMatrix2D((80, 80), 25, 1.5)
    turn[:, 2] += 90, 60
    moved = cv2.warpAffine(picture, turn, (400, 360), flags=cv2.INTER_CUBIC)
    other = network.embed(moved, apply(turn, POINTS))
    assert network.cosine(network.embed(picture, POINTS), other) > 0.97


def test_dtype_and_channels_do_not_matter(network):
    gray = cv2.cvtColor(render_face(1, SIZE), cv2.COLOR_RGB2GRAY)
    expected = network.embed(np.dstack([gray] * 3), POINTS)
    for picture in (gray, gray * np.uint16(257), gray / np.float32(255)):
        assert network.cosine(expected, network.embed(picture, POINTS)) > 0.99


def test_the_unused_inputs_change_nothing(network):
    other = Identity(network.session, {name: value + 1 for name, value in network.unused.items()})
    picture = render_face(2, SIZE)
    np.testing.assert_array_equal(network.embed(picture, POINTS), other.embed(picture, POINTS))


def test_points_go_to_the_template_of_arcface():
    transform = identity._to_template(identity._TEMPLATE[:, ::-1] * [-2, 2] + np.array([300, 5]))
    np.testing.assert_allclose(transform, [[0, 0.5, -2.5], [-0.5, 0, 150]], atol=1e-9)


def test_without_onnxruntime(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"onnxruntime: pip install 'codeformer-jax\[identity\]'"):
        Identity.load()
