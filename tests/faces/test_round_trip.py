"""Portraits whose crop is pasted back unchanged: the picture must come back."""

import pathlib

import cv2
import numpy as np
import pytest

from codeformer_jax.faces.align import cut
from codeformer_jax.faces.detect import DETECTORS
from codeformer_jax.faces.face import apply
from codeformer_jax.faces.masks import hull_mask
from codeformer_jax.faces.paste import Patch, extent, mask_in, paste

PORTRAITS = pathlib.Path(__file__).parents[3] / "shared" / "faces" / "portraits"
NAMES = [f"{kind}_{number}.jpg" for kind in ("female", "male") for number in range(100)]


@pytest.fixture(scope="module")
def detector():
    if not PORTRAITS.is_dir():
        pytest.skip(f"no portraits in {PORTRAITS}")
    return DETECTORS["yunet"](None, None)


def paste_back(detector, name, detail):
    """A portrait before and after, the part that may change, and the mask in it."""
    picture = cv2.imread(str(PORTRAITS / name))[..., ::-1].copy()
    faces = detector(picture)
    if len(faces) != 1:
        return None
    transform = faces[0].transform
    mask = hull_mask(512, apply(transform, faces[0].points))
    # As a network's result: float32 in 0..1.
    patch = Patch(transform, cut(picture, transform, 512) / np.float32(255), mask)
    result = picture.copy()
    paste(result, [patch], detail=detail)
    where = extent(patch, picture.shape)
    return picture, result, where, mask_in(patch, where)


def psnr(before, after, mask):
    """PSNR in dB over the face."""
    error = np.square(after.astype(float) - before)[mask > 0].mean()
    return 10 * np.log10(255**2 / max(error, 1e-6))


def shift(before, after, where):
    """How far (y, x) the content moved, in pixels, by least squares."""
    slopes = np.stack([slope[where] for slope in np.gradient(before)], axis=-1)
    return np.linalg.lstsq(slopes, (before - after)[where], rcond=None)[0]


def check_unchanged(before, after, where, mask):
    """With the picture's own detail the portrait is exact, and nothing changes outside."""
    change = np.abs(after.astype(int) - before)
    assert psnr(before[where], after[where], mask) >= 45
    assert change[where][mask > 0].max() <= 2
    change[where][mask > 0] = 0
    assert not change.any()


@pytest.mark.parametrize("name", NAMES[::50])
def test_a_portrait_comes_back(detector, name):
    check_unchanged(*paste_back(detector, name, True))


def test_resampling_there_and_back_is_sharp_and_in_place(detector):
    """Without the picture's own detail, the face is what was cut and pasted."""
    levels, shifts = [], []
    for name in NAMES[::25]:
        before, after, where, mask = paste_back(detector, name, False)
        levels.append(psnr(before[where], after[where], mask))
        shifts.append(shift(*(x[where].mean(axis=-1) for x in (before, after)), mask > 0.99))
    assert np.median(levels) >= 44
    assert min(levels) >= 38
    assert np.abs(shifts).max() < 0.02  # Pixels.


@pytest.mark.slow
def test_all_portraits_come_back(detector):
    trips = [paste_back(detector, name, True) for name in NAMES]
    found = [trip for trip in trips if trip is not None]
    assert len(found) >= 0.97 * len(NAMES)
    for trip in found:
        check_unchanged(*trip)
