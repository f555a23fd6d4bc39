"""Faces larger than the network's images: sharp ones are not made worse, degraded ones gain.

The network is one kernel of 7 x 7, fitted by least squares to degraded drawn faces.
"""

import dataclasses
import functools
import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.data.synthetic import render_face
from codeformer_jax.faces.face import TEMPLATE
from codeformer_jax.metrics.images import ssim
from codeformer_jax.restore import PhotoOptions, Restorer

SIZE, SIDE, REACH = 64, 512, 3


@functools.cache
def face(identity):
    return render_face(identity, SIDE)


def noisy(image, deviation, seed=0):
    noise = np.random.default_rng(seed).normal(0, deviation, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def coded(image, quality):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)


def strongly_degraded(image, seed=0):
    return coded(noisy(cv2.GaussianBlur(image, (0, 0), 12), 5, seed), 60)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Convolves each channel with one kernel."""

    image_size: int = SIZE

    def apply(self, variables, images, *, w, adain):
        planes = jnp.moveaxis(images, -1, 1).reshape(-1, SIZE, SIZE, 1)
        border = ((0, 0), (REACH, REACH), (REACH, REACH), (0, 0))
        planes = jax.lax.conv_general_dilated(
            jnp.pad(planes, border, mode="edge"),
            variables["params"]["kernel"][..., None, None],
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        image = jnp.moveaxis(planes.reshape(-1, 3, SIZE, SIZE), 1, -1)
        return dataclasses.make_dataclass("Output", ["image"])(image)


@pytest.fixture(scope="module")
def restorer():
    rows, wanted = [], []
    for identity in range(4):
        pair = strongly_degraded(face(identity), identity), face(identity)
        small = [cv2.resize(x, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for x in pair]
        degraded, clean = (x.astype(np.float32) / 127.5 - 1 for x in small)
        width = 2 * REACH + 1
        patches = np.lib.stride_tricks.sliding_window_view(degraded, (width, width), (0, 1))
        rows.append(patches.reshape(-1, width * width))
        wanted.append(clean[REACH:-REACH, REACH:-REACH].reshape(-1))
    kernel = np.linalg.lstsq(np.concatenate(rows), np.concatenate(wanted), rcond=None)[0]
    kernel = jnp.asarray(kernel.reshape(width, width), jnp.float32)
    return Restorer(Kernel(), {"params": {"kernel": kernel}})


@pytest.fixture
def restore(restorer, tmp_path):
    """restore(picture, **options) -> Photo with the one face restored"""
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"points": TEMPLATE.tolist()}]))

    def run(picture, **fields):
        options = PhotoOptions(boxes=boxes, aligned="no", **fields)
        return restorer.restore_photo(picture, options=options)

    return run


def psnr(image, truth):
    """Of the middle, which holds the face, in dB; at most 100."""
    middle = (slice(112, 464), slice(112, 400))
    error = np.square(image[middle].astype(np.float64) - truth[middle]).mean() / 255**2
    return -10 * np.log10(max(error, 1e-10))


def similarity(image, truth):
    pair = (jnp.asarray(x, jnp.float32)[None] / 255 for x in (image, truth))
    return float(ssim(*pair)[0])


@pytest.mark.parametrize(
    "degrade",
    [lambda x: x, lambda x: noisy(x, 2.55), lambda x: coded(x, 95)],
    ids=["clean", "noise of 40 dB", "JPEG 95"],
)
def test_a_sharp_face_loses_less_than_half_a_decibel(restore, degrade):
    truth = face(11)
    picture = degrade(truth)
    before, photo = psnr(picture, truth), restore(picture)
    assert before > 38
    assert psnr(photo.pixels, truth) > before - 0.5
    assert similarity(photo.pixels, truth) > similarity(picture, truth) - 0.005
    assert photo.faces[0].sharpness == 1
    assert psnr(restore(picture, detail=False).pixels, truth) < before - 10


@pytest.mark.parametrize(
    "degrade",
    [
        lambda x: cv2.GaussianBlur(x, (0, 0), 6),
        lambda x: coded(noisy(cv2.GaussianBlur(x, (0, 0), 4), 5), 60),
        lambda x: noisy(x, 15),
        lambda x: coded(x, 20),
    ],
    ids=["blur", "blur, noise and JPEG", "noise", "JPEG 20"],
)
def test_what_the_network_cannot_improve_loses_less_than_half_a_decibel(restore, degrade):
    truth = face(11)
    picture = degrade(truth)
    before = psnr(picture, truth)
    assert psnr(restore(picture).pixels, truth) > before - 0.5
    assert psnr(restore(picture, detail=False).pixels, truth) < before - 1


@pytest.mark.parametrize("identity", [11, 12])
def test_a_strongly_degraded_face_gains(restore, identity):
    truth = face(identity)
    picture = strongly_degraded(truth, seed=100)
    photo = restore(picture)
    assert photo.faces[0].sharpness < 0.3
    assert psnr(photo.pixels, truth) > psnr(picture, truth) + 0.8
