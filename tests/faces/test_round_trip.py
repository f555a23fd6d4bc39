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


def round_trip(detector, name, detail):
    """PSNR over the face and the largest change in and outside the mask; None without a face."""
    picture = cv2.imread(str(PORTRAITS / name))
    faces = detector(np.ascontiguousarray(picture[..., ::-1]))
    if len(faces) != 1:
        return None
    transform, points = faces[0].transform, faces[0].points
    mask = hull_mask(512, apply(transform, points))
    # As a network's result: float32 in 0..1.
    patch = Patch(transform, cut(picture, transform, 512) / np.float32(255), mask)
    result = picture.copy()
    paste(result, [patch], detail=detail)
    where = extent(patch, picture.shape)
    inside = mask_in(patch, where) > 0
    change = np.abs(result[where].astype(int) - picture[where])
    error = np.square(change[inside]).mean()
    result[where] = picture[where]
    outside = max(int(change[~inside].max(initial=0)), int((result != picture).any()))
    return 10 * np.log10(255**2 / max(error, 1e-6)), int(change.max()), outside


@pytest.mark.parametrize("name", ["female_0.jpg", "female_54.jpg", "male_20.jpg"])
def test_a_portrait_comes_back(detector, name):
    psnr, inside, outside = round_trip(detector, name, True)
    assert psnr >= 45
    assert inside <= 2
    assert outside == 0
    # Resampled there and back, without the picture's own detail.
    assert round_trip(detector, name, False)[0] >= 38


@pytest.mark.slow
def test_all_portraits_come_back(detector):
    results = {name: round_trip(detector, name, True) for name in NAMES}
    found = {name: result for name, result in results.items() if result is not None}
    assert len(found) >= 0.97 * len(NAMES)
    worst = {
        name: (psnr, inside, outside)
        for name, (psnr, inside, outside) in found.items()
        if psnr < 45 or inside > 2 or outside > 0
    }
    assert not worst
