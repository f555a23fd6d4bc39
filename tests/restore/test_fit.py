import numpy as np
import pytest

from codeformer_jax.restore.fit import as_dtype, fit, unfit


@pytest.mark.parametrize("shape", [(16, 16, 3), (16, 9, 3), (5, 16, 3), (16, 16), (1, 16)])
def test_unfit_undoes_the_borders(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    fitted = fit(image, 16)
    assert fitted.pixels.shape == (16, 16, 3)
    assert fitted.padded == (shape[:2] != (16, 16))
    assert fitted.gray == (image.ndim == 2)
    back = unfit(fitted.pixels, fitted)
    assert np.array_equal(back[..., 0] if image.ndim == 2 else back, image)


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
