import io

import numpy as np
import pytest
from PIL import Image

from codeformer_jax.restore.fit import NOT_PAINTED, NOT_SQUARE, as_dtype, fit, tint_of, unfit


@pytest.mark.parametrize("shape", [(16, 16, 3), (16, 9, 3), (5, 16, 3), (16, 16), (1, 16)])
def test_unfit_undoes_the_borders(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    fitted = fit(image, 16)
    assert fitted.pixels.shape == (16, 16, 3)
    assert fitted.notes == (() if shape[:2] == (16, 16) else (NOT_SQUARE,))
    assert fitted.gray == (image.ndim == 2)
    back = unfit(fitted.pixels, fitted)
    assert np.array_equal(back[..., 0] if image.ndim == 2 else back, image)


def scene(height=16, width=16):
    """A gray picture [h, w, 3] with many levels."""
    ramp = np.arange(height * width) * 7 % 200 + 20
    return np.repeat(ramp.reshape(height, width, 1), 3, axis=-1).astype(np.uint8)


def encoded(pixels, file_format, **options):
    """The pixels after lossy coding."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, file_format, **options)
    return np.asarray(Image.open(data).convert("RGB"))


def published_variance(pixels):
    r, g, b = np.moveaxis(pixels.astype(np.float64), -1, 0)
    return ((r - g).var() + (g - b).var() + (b - r).var()) / 3


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(("swing", "gray"), [(0, True), (2, True), (7, True), (8, False)])
def test_black_and_white_is_up_to_a_mean_variance_of_10(dtype, swing, gray):
    pixels = scene()
    pixels[::2, :, 0] += swing  # Red differs in half of the rows.
    red, green, blue = np.moveaxis(pixels.astype(np.float64), -1, 0)
    variance = ((red - green).var() + (green - blue).var() + (blue - red).var()) / 3
    assert variance == pytest.approx(swing**2 / 6)
    assert (variance <= 10) == gray
    tint = tint_of(pixels if dtype == np.uint8 else (pixels / 255).astype(np.float32))
    assert (tint is not None) == gray


@pytest.mark.parametrize(("file_format", "quality"), [("WEBP", 80), ("JPEG", 95)])
def test_lossy_files_and_scans_of_black_and_white_pictures_are_gray(file_format, quality):
    y, x = np.mgrid[:64, :64]
    gray = np.round(120 + 90 * np.sin(x / 9) * np.cos(y / 7))[..., None].repeat(3, axis=-1)
    scan = gray + np.random.default_rng(0).normal(0, 2.5, gray.shape)
    coded = encoded(scan.clip(0, 255).astype(np.uint8), file_format, quality=quality)
    assert not np.all(coded == coded[..., :1])
    fitted = fit(coded, 64)
    assert fitted.gray
    result = unfit(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8), fitted)
    assert np.all(result == result[..., :1])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_cast_that_is_the_same_everywhere_stays(dtype):
    pixels = scene() + np.array([9, 0, -12], np.int16)
    given = pixels.astype(np.uint8) if dtype == np.uint8 else (pixels / 255).astype(np.float32)
    assert tint_of(given) == (8, -1, -13)  # Above the brightness, which the cast changes, too.
    fitted = fit(given, 16)
    assert not fitted.gray
    restored = np.random.default_rng(0).integers(40, 200, (16, 16, 3)).astype(np.uint8)
    restored = restored if dtype == np.uint8 else (restored / 255).astype(np.float32)
    result = unfit(restored, fitted) * (1 if dtype == np.uint8 else 255.0)
    assert np.allclose(result[..., 0].astype(float) - result[..., 1], 9, atol=1e-3)
    assert np.allclose(result[..., 1].astype(float) - result[..., 2], 12, atol=1e-3)


def test_sepia_is_a_colour():
    sepia = np.round(scene() * [1.0, 0.8, 0.6]).astype(np.uint8)
    assert tint_of(sepia) is None


def test_gray_is_left_to_the_network_where_it_is_not_kept():
    fitted = fit(scene(), 16, keep_gray=False)
    restored = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert np.array_equal(unfit(restored, fitted), restored)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(16, 16), (16, 8), (7, 16)])
def test_known_pixels_come_back_and_white_ones_are_filled_in(dtype, shape):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (*shape, 3)).astype(np.uint8)
    pixels[2:5, 3:6] = 255
    pixels[6, 2] = (255, 255, 254)  # Not pure white.
    painted = np.zeros(shape, bool)
    painted[2:5, 3:6] = True
    scale = 1 if dtype == np.uint8 else 255
    given = (pixels / scale).astype(dtype)
    fitted = fit(given, 16, keep_known=True)
    assert fitted.notes == (() if shape == (16, 16) else (NOT_SQUARE,))
    restored = (rng.integers(0, 256, (16, 16, 3)) / scale).astype(dtype)
    result = unfit(restored, fitted)
    top, left = (16 - shape[0]) // 2, (16 - shape[1]) // 2
    cut = restored[top : top + shape[0], left : left + shape[1]]
    assert np.array_equal(result[~painted], given[~painted])
    assert np.array_equal(result[painted], cut[painted])


@pytest.mark.parametrize("side", [9, 40])
def test_known_pixels_of_a_resized_picture_hold_no_white(side):
    dark, painted = np.zeros((side, side, 3), np.uint8), np.zeros((side, side, 3), np.uint8)
    painted[side // 3 : side // 2, side // 4 : side // 2] = 255
    fitted = fit(painted, 16, keep_known=True)
    assert 0 < fitted.known.sum() < 256
    assert np.all(fitted.pixels[fitted.known] == fit(dark, 16).pixels[fitted.known])


def test_without_a_painted_pixel_the_picture_comes_back():
    fitted = fit(scene(), 16, keep_known=True)
    assert fitted.notes == (NOT_PAINTED,)
    assert np.array_equal(unfit(np.zeros((16, 16, 3), np.uint8), fitted), scene())


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_shrinking_is_antialiased(dtype):
    checkers = np.indices((64, 64)).sum(0) % 2 * (255 if dtype == np.uint8 else 1)
    pixels = fit(checkers.astype(dtype), 16).pixels
    assert np.ptp(pixels) < 0.05 * checkers.max()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_enlarging_is_bilinear(dtype):
    top = dtype(100) if dtype == np.uint8 else dtype(0.4)
    image = np.array([[0, top], [0, top]], dtype)
    row = fit(image, 4).pixels[0, :, 0] / top
    assert np.allclose(row, [0, 0.25, 0.75, 1])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.array([0, 128, 255], np.uint8), np.array([0, 128 / 255, 1], np.float32)),
        (np.array([0.0, 0.502, 1.0]), np.array([0, 128, 255], np.uint8)),
        (np.array([0.25], np.float32), np.array([0.25], np.float16)),
    ],
)
def test_as_dtype(given, expected):
    result = as_dtype(given, expected.dtype)
    assert result.dtype == expected.dtype
    assert np.allclose(result, expected)
