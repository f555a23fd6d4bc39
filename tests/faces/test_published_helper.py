"""The published alignment and pasting, against the fixtures that its own code made."""

import pathlib

import numpy as np
import pytest
from parity.seeded import seeded_image

from codeformer_jax.faces.face import TEMPLATE, fit_similarity
from codeformer_jax.faces.published import cut_published, gray_like, paste_published

PARITY = pathlib.Path(__file__).parents[1] / "parity"


def levels(height, width, seed):
    return np.round(255 * seeded_image(height, width, seed)).astype(np.uint8)


@pytest.fixture(scope="module")
def fixture():
    with np.load(PARITY / "paste_0.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize(
    ("name", "height", "width", "seed", "faces"),
    [("alignment", 700, 900, 5, 4), ("paste", 360, 440, 0, 2)],
)
def test_crops_are_the_published_ones(name, height, width, seed, faces):
    picture = levels(height, width, seed)
    with np.load(PARITY / f"{name}_0.npz") as expected:
        assert len(expected["crops"]) == faces
        for points, affine, crop in zip(
            expected["landmarks"], expected["affine"], expected["crops"], strict=True
        ):
            transform = fit_similarity(points)
            np.testing.assert_allclose(transform, affine, atol=1e-3)
            ours = cut_published(picture, transform)[::8, ::8]
            assert np.abs(ours.astype(int) - crop).max() <= 1


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("parse", [False, True])
def test_pasted_pictures_are_the_published_ones(fixture, factor, parse):
    transforms = [fit_similarity(points) for points in fixture["landmarks"]]
    faces = [levels(512, 512, 10 + number) for number in range(2)]
    labels = list(fixture["labels"]) if parse else None
    ours = paste_published(levels(360, 440, 0), transforms, faces, factor, labels)
    name = f"pasted_up{factor}_parse{int(parse)}"
    gaps = np.abs(ours[::3, ::3].astype(int) - fixture[name])
    assert (gaps <= 1).mean() >= 0.995
    assert gaps.mean() <= 0.1
    np.testing.assert_allclose(ours.mean((0, 1)), fixture[f"{name}_mean"], atol=0.1)


def test_a_gray_face_is_the_published_one(fixture):
    crop = np.repeat(levels(512, 512, 11)[..., :1], 3, axis=-1)
    ours = gray_like(levels(512, 512, 10), crop)[::8, ::8]
    np.testing.assert_allclose(ours, fixture["gray_restored"], atol=0.5)


def test_dtype_and_channels_are_the_pictures():
    picture = levels(60, 80, 1)[..., 0].astype(np.uint16) * 257
    transform = fit_similarity(TEMPLATE * 0.1 + 5)
    result = paste_published(picture, [transform], [levels(512, 512, 2)[..., 0]])
    assert result.dtype == np.uint16
    assert result.shape == picture.shape
    assert 0.2 < (result != picture).mean() < 0.9


def test_a_face_outside_the_picture_changes_nothing():
    picture = levels(40, 50, 1)
    transform = fit_similarity(TEMPLATE * 0.1 + 900)
    result = paste_published(picture, [transform], [levels(512, 512, 2)])
    np.testing.assert_array_equal(result, picture)
