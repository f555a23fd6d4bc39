"""Squares cut from pictures: sharp, without aliasing, in place, and only the pixels around them."""

import cv2
import numpy as np
import pytest

from codeformer_jax.faces.align import box_region, cut, scaled, shifted, source_region
from codeformer_jax.faces.face import apply, invert


def similarity(scale, degrees, centre, size):
    """Transform that takes `centre` of the picture to the middle of the square."""
    angle = np.deg2rad(degrees)
    linear = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.column_stack([linear, (size - 1) / 2 - linear @ np.array(centre, np.float64)])


def stripes(cycles_per_pixel, side):
    """Gray picture of vertical stripes, 0.5 +- 0.4."""
    row = 0.5 + 0.4 * np.cos(2 * np.pi * cycles_per_pixel * np.arange(side) + 1)
    return np.tile(row.astype(np.float32), (side, 1))


@pytest.mark.parametrize("reduction", [1.6, 2.0, 3.1, 7.7])
def test_fine_stripes_vanish_and_coarse_ones_stay(reduction):
    """Frequencies are in cycles per pixel of the square; it can hold up to a half."""
    size, side = 64, int(64 * reduction) + 60
    transform = similarity(1 / reduction, 0, (side / 2, side / 2), size)
    for frequency, least, most in ((0.2, 0.9, 1.02), (0.75, 0, 0.03), (0.9, 0, 0.1)):
        if frequency / reduction < 0.5:
            crop = cut(stripes(frequency / reduction, side), transform, size)
            contrast = (crop[8:-8, 8:-8] - 0.5).std() / (0.4 / np.sqrt(2))
            assert least <= contrast <= most, f"{frequency}: {contrast:.3f}"


def test_a_plain_warp_would_alias():
    crop = cv2.warpAffine(stripes(0.24, 260), similarity(1 / 3.1, 0, (130, 130), 64), (64, 64))
    assert (crop - 0.5).std() / (0.4 / np.sqrt(2)) > 0.5


@pytest.mark.parametrize("enlargement", [1.0, 1.7, 4.0])
def test_enlarged_squares_are_sharp(enlargement):
    transform = similarity(enlargement, 0, (60.3, 60.3), 256)
    crop = cut(stripes(0.25, 120), transform, int(100 * enlargement))
    assert (crop[8:-8, 8:-8] - 0.5).std() / (0.4 / np.sqrt(2)) > 0.9


@pytest.mark.parametrize("scale", [0.13, 0.45, 0.7, 1.0, 1.3, 3.3])
def test_every_pixel_comes_from_its_place(scale):
    """A picture of its own coordinates: the square shows where it was cut, to 0.002 px."""
    rows, columns = np.mgrid[:500, :600].astype(np.float32)
    picture = np.stack([columns, rows, columns + rows], -1) / 1100
    transform = similarity(scale, 25, (300.2, 250.7), 128)
    shown = cut(picture, transform, 128)[..., :2].reshape(-1, 2) * 1100
    y, x = np.mgrid[:128, :128]
    place = apply(invert(transform), np.stack([x.ravel(), y.ravel()], -1).astype(np.float64))
    inside = ((place > 40) & (place < [560, 460])).all(1)
    assert inside.sum() > 2000
    assert np.abs(shown - place)[inside].max() < 0.002 * max(1, 1 / scale)


@pytest.mark.parametrize(
    ("scale", "centre"),
    [(0.5, (0, 0)), (0.5, (180, 20)), (1.5, (199, 149)), (0.2, (100, 75)), (0.5, (-40, 75))],
)
def test_the_picture_is_reflected_beyond_its_edges(scale, centre):
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (150, 200, 3), np.uint8), (0, 0), 2)
    around = np.pad(picture, ((150, 150), (200, 200), (0, 0)), mode="symmetric")
    transform = similarity(scale, 30, centre, 64)
    expected = cut(around, shifted(transform, -200, -150), 64)
    assert np.abs(cut(picture, transform, 64).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_dtype_and_channels_stay(dtype, channels):
    top = 1 if dtype == np.float32 else np.iinfo(dtype).max
    picture = np.full((50, 60, *channels), top, dtype)
    picture[:25] = 0
    crop = cut(picture, similarity(2, 0, (30, 24.5), 64), 64)
    assert crop.dtype == dtype
    assert crop.shape == (64, 64, *channels)
    assert (crop[:20] == 0).all()
    assert (crop[-20:] == top).all()


def test_pixels_far_from_the_square_are_not_read():
    picture = np.full((3000, 4000), np.nan, np.float32)
    transform = similarity(0.5, 10, (2000, 1500), 64)
    rows, columns = source_region(transform, 64, picture.shape)
    assert (rows.stop - rows.start) * (columns.stop - columns.start) < 180**2
    picture[rows, columns] = 0.25
    np.testing.assert_allclose(cut(picture, transform, 64), 0.25, atol=1e-6)


def test_a_square_far_outside_reads_little():
    rows, columns = source_region(similarity(1, 0, (-9000, 100), 64), 64, (4000, 6000))
    assert (rows.stop - rows.start) * (columns.stop - columns.start) < 100**2


@pytest.mark.parametrize("shape", [(1, 1), (1, 40, 3), (3, 2, 3)])
@pytest.mark.parametrize("scale", [1e-3, 0.05, 1.0, 20.0])
def test_the_smallest_pictures_have_squares_too(shape, scale):
    picture = np.full(shape, 77, np.uint8)
    assert (cut(picture, similarity(scale, 30, (0, 0), 32), 32) == 77).all()


def test_a_square_wider_than_opencvs_limit():
    picture = np.tile(np.linspace(0, 1, 40_000, dtype=np.float32), (40, 1))
    crop = cut(picture, similarity(64 / 40_000, 0, (20_000, 20), 64), 64)
    np.testing.assert_allclose(crop[32, 4:-4], (np.arange(4, 60) + 0.5) / 64, atol=1e-3)


def test_regions():
    transform = similarity(2, 0, (100.3, 50.3), 40)
    whole = (-0.5, -0.5, 39.5, 39.5)
    assert box_region(transform, whole, (80, 200)) == (slice(41, 61), slice(91, 111))
    assert box_region(transform, whole, (55, 95, 3)) == (slice(41, 55), slice(91, 95))
    assert box_region(transform, whole, (40, 40)) == (slice(40, 40), slice(40, 40))
    upper = box_region(transform, (-0.5, -0.5, 19.5, 9.5), (80, 200))
    assert upper == (slice(41, 46), slice(91, 101))


def test_scaled_transforms_follow_the_edges():
    transform = similarity(0.7, 20, (100, 50), 64)
    points = np.array([[-0.5, -0.5], [99.5, 20.0]])
    enlarged = (points + 0.5) * 3 - 0.5
    np.testing.assert_allclose(apply(scaled(transform, 3), enlarged), apply(transform, points))
    np.testing.assert_array_equal(scaled(transform, 1), transform)
