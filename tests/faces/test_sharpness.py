"""Sharpness of drawn faces of 512 px, for a network of 128 px."""

import functools

import cv2
import numpy as np
import pytest
from faces.test_align import similarity

from codeformer_jax.data.synthetic import render_face
from codeformer_jax.faces.align import cut, scaled
from codeformer_jax.faces.face import invert
from codeformer_jax.faces.sharpness import sharpness

SIDE, NETWORK = 512, 128
PLACE = np.eye(2, 3)


@functools.cache
def drawn(identity):
    return render_face(identity, SIDE)


def blurred(image, sigma):
    return cv2.GaussianBlur(image, (0, 0), sigma)


def noisy(image, deviation):
    noise = np.random.default_rng(0).normal(0, deviation, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def coded(image, quality):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)


def sharpened(image):
    """Unsharp masking, with halos."""
    return cv2.addWeighted(image, 3, blurred(image, 3), -2, 0)


def coarse(image, factor, interpolation):
    small = cv2.resize(image, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, image.shape[1::-1], interpolation=interpolation)


SHARP = {
    "clean": lambda x: x,
    "light noise": lambda x: noisy(x, 3),
    "JPEG 95": lambda x: coded(x, 95),
    "JPEG 60": lambda x: coded(x, 60),
    "JPEG 25": lambda x: coded(x, 25),
    "light blur": lambda x: blurred(x, 1),
    "blur that the network hardly sees": lambda x: blurred(x, 3),
    "that and light noise": lambda x: noisy(blurred(x, 3), 5),
    "enlarged": lambda x: coarse(x, 5, cv2.INTER_LINEAR),
    "dark": lambda x: x // 4,
    "gray": lambda x: x[..., 1],
    "16 bits": lambda x: x.astype(np.uint16) * 257,
}
NOT_SHARP = {
    "blur": lambda x: blurred(x, 7),
    "noise": lambda x: noisy(x, 35),
    "blur and noise": lambda x: noisy(blurred(x, 7), 10),
    "blur and coloured noise": lambda x: blurred(noisy(blurred(x, 8), 20), 0.8),
    "blur and JPEG": lambda x: coded(blurred(x, 7), 10),
    "blur and JPEG, sharpened": lambda x: sharpened(coded(blurred(x, 9), 30)),
    "blur, sharpened": lambda x: sharpened(blurred(x, 8)),
    "enlarged": lambda x: coarse(x, 20, cv2.INTER_LINEAR),
    "mosaic": lambda x: coarse(x, 8, cv2.INTER_NEAREST),
    "flat": lambda x: np.full_like(x, 128),
    "black": np.zeros_like,
}


@pytest.mark.parametrize("identity", [1, 2])
@pytest.mark.parametrize("name", SHARP)
def test_sharp(name, identity):
    assert sharpness(SHARP[name](drawn(identity)), PLACE, NETWORK) == 1


@pytest.mark.parametrize("identity", [1, 2])
@pytest.mark.parametrize("name", NOT_SHARP)
def test_not_sharp(name, identity):
    assert sharpness(NOT_SHARP[name](drawn(identity)), PLACE, NETWORK) <= 0.02


@pytest.mark.parametrize(
    "degrade", [lambda x, much: blurred(x, 0.4 + 2 * much), lambda x, much: noisy(x, 10 * much)]
)
def test_it_falls_without_jumps(degrade):
    values = [sharpness(degrade(drawn(2), m), PLACE, NETWORK) for m in np.linspace(0.2, 4, 77)]
    assert values[0] == 1
    assert values[-1] == 0
    steps = np.diff(values)
    assert steps.max() <= 0.02
    assert steps.min() >= -0.25


def test_the_same_face_elsewhere_is_as_sharp():
    face = blurred(drawn(1), 5)
    value = sharpness(face, PLACE, NETWORK)
    assert 0.1 < value < 0.9
    shifted = np.pad(face, ((13, 40), (21, 5), (0, 0)), mode="reflect")
    assert abs(sharpness(shifted, PLACE - [[0, 0, 21], [0, 0, 13]], NETWORK) - value) < 1e-3
    turned = np.array([[0.0, -1, SIDE - 1], [1, 0, 0]])
    assert abs(sharpness(np.rot90(face), turned, NETWORK) - value) < 1e-3
    paler = np.rint(face * 0.6 + 80).astype(np.uint8)
    assert abs(sharpness(paler, PLACE, NETWORK) - value) < 0.03


def test_a_tilted_face():
    place = similarity(0.9, 25, (400, 400), SIDE)
    picture = cut(drawn(1), invert(place), 800)
    assert sharpness(picture, place, NETWORK) == 1


def test_small_faces():
    for side, least, most in ((100, 0, 0), (128, 0, 0), (132, 0, 0.13), (160, 1, 1)):
        small = cv2.resize(drawn(1), (side, side), interpolation=cv2.INTER_AREA)
        value = sharpness(small, scaled(PLACE, side / SIDE), NETWORK)
        assert least <= value <= most, side


def test_faces_at_the_border_and_outside():
    for offset in (200, 5000):
        moved = PLACE + np.array([[0, 0, offset], [0, 0, offset]])
        value = sharpness(drawn(1), moved, NETWORK)
        assert 0 <= value <= 1
