"""Masks, and colour and grain of pasted faces."""

import cv2
import numpy as np
import pytest
from faces.test_align import similarity
from parity.seeded import seeded_image

from codeformer_jax.faces.align import cut
from codeformer_jax.faces.face import TEMPLATE
from codeformer_jax.faces.masks import hull_mask, parsing_mask, square_mask
from codeformer_jax.faces.paste import Patch, paste
from codeformer_jax.faces.texture import add_grain, grain_of, match_color, noise_level

SIZE = 256


def smooth(height, width, top=255):
    image = cv2.GaussianBlur(seeded_image(height, width, 3), (0, 0), 2)
    return top * (0.3 + 0.4 * image)


@pytest.mark.parametrize("make", [hull_mask, square_mask])
@pytest.mark.parametrize("size", [16, 64, 512])
def test_masks_are_one_inside_and_zero_at_the_border(make, size):
    mask = make(size)
    assert mask.dtype == np.float32
    assert mask.min() == 0
    assert mask[size // 2, size // 2] > (0.99 if size > 16 else 0.6)
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    assert border.max() == 0
    assert np.abs(np.diff(mask, axis=0)).max() < 32 / size


def test_the_hull_covers_the_points_of_a_turned_head():
    points = TEMPLATE + np.array([(40, 0), (-30, 5), (60, 0), (30, 0), (-20, 0)])
    mask = hull_mask(512, points)
    for x, y in points.round().astype(int):
        assert mask[y, x] > 0.5
    assert mask.mean() < hull_mask(512).mean()


def test_the_parsing_mask_keeps_the_face():
    labels = np.full((512, 512), 17, np.uint8)
    labels[150:400, 150:350] = 1
    labels[300:320, 200:300] = 12
    mask = parsing_mask(labels)
    assert mask[310, 250] == pytest.approx(1, abs=1e-4)
    assert mask[200, 150] == pytest.approx(0.5, abs=0.05)
    assert mask[450, 450] == 0
    assert parsing_mask(np.ones((512, 512), np.uint8))[9].max() == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("gray", [False, True])
def test_a_tint_is_taken_out_and_texture_stays(dtype, gray):
    """Low frequencies of the result are the input's, within 2 levels of 255."""
    crop = np.rint(smooth(SIZE, SIZE)).astype(np.uint8)
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    texture = np.random.default_rng(0).normal(0, 3, (SIZE, SIZE, 1))
    tint = np.stack([20 + 10 * x, -12 + 0 * x, 5 - 15 * y], -1) + texture
    restored = np.clip(crop + tint, 0, 255) / (1 if dtype == np.uint8 else 255)
    restored = restored.astype(dtype)
    if gray:
        crop, restored = crop[..., 0], restored[..., 0]
    mask = hull_mask(SIZE)
    matched = match_color(restored, crop, mask)
    assert matched.dtype == dtype
    levels = matched.astype(np.float64) * (1 if dtype == np.uint8 else 255)
    gap = (levels - crop).reshape(SIZE, SIZE, -1)
    face = mask > 0.5
    assert np.abs(gap[face].mean(0)).max() < 0.3
    low = cv2.GaussianBlur(gap * face[..., None], (0, 0), 32).reshape(gap.shape)
    low /= cv2.GaussianBlur(face.astype(np.float64), (0, 0), 32)[..., None]
    assert np.abs(low[face]).max() < 2
    assert 2.5 < gap[face].std() < 3.5
    before = np.abs((restored.astype(np.float64) * (1 if dtype == np.uint8 else 255) - crop).mean())
    assert before > 3


@pytest.mark.parametrize("deviation", [0.0, 1.0, 5.0])
def test_the_noise_level_is_found(deviation):
    rng = np.random.default_rng(1)
    noisy = smooth(300, 400) + rng.normal(0, deviation, (300, 400, 3))
    noisy[100:110] = 255.0  # An edge is no noise.
    expected = pytest.approx(deviation, rel=0.05, abs=0.1)
    for level in noise_level(noisy.astype(np.float32)):
        assert level == expected
    (level,) = noise_level((noisy[..., 0] * 257).astype(np.uint16))
    assert level / 257 == expected
    where = np.zeros((300, 400), bool)
    assert (noise_level(noisy.astype(np.float32), where) == 0).all()


@pytest.mark.parametrize("detail", [True, False])
@pytest.mark.parametrize("scale", [0.5, 3.0])
@pytest.mark.parametrize("gray", [False, True])
def test_grain_comes_back(detail, scale, gray):
    rng = np.random.default_rng(2)
    clean, noise = smooth(500, 600), rng.normal(0, 5, (500, 600, 3))
    if gray:
        clean, noise = clean[..., 0], noise[..., 0]
    picture = np.rint(clean + noise).astype(np.uint8)
    transform = similarity(scale, 20, (300, 250), SIZE)
    restored = cut(np.rint(clean).astype(np.uint8), transform, SIZE)
    new = Patch(transform, restored, hull_mask(SIZE))
    wanted = grain_of(picture, new)
    result = picture.copy()
    paste(result, [new], detail=detail)
    if not detail:
        assert (grain_of(result, new) < 1).all()
    smoothed = result.copy()
    add_grain(result, new, wanted, seed=3)
    np.testing.assert_allclose(grain_of(result, new), wanted, rtol=0.12)
    again = smoothed.copy()
    add_grain(again, new, wanted, seed=3)
    np.testing.assert_array_equal(again, result)
    assert (result[:5] == picture[:5]).all() or scale < 1


def test_enough_grain_gets_no_more():
    rng = np.random.default_rng(2)
    picture = rng.normal(128, 5, (200, 200, 3)).astype(np.uint8)
    mask = hull_mask(SIZE)
    new = Patch(similarity(1.5, 0, (100, 100), SIZE), np.zeros((SIZE, SIZE, 3), np.uint8), mask)
    result = picture.copy()
    add_grain(result, new, np.full(3, 2.0))
    np.testing.assert_array_equal(result, picture)
