import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax import metrics


def _pair(seed=0, shape=(3, 24, 20, 3)):
    rng = np.random.default_rng(seed)
    a = rng.random(shape, np.float32)
    return a, np.clip(a + rng.normal(0, 0.1, shape), 0, 1).astype(np.float32)


def _ssim_numpy(a, b):
    """Wang et al. 2004, equation 13, window by window, in float64."""
    offsets = np.arange(11) - 5
    window = np.exp(-0.5 * (offsets / 1.5) ** 2)
    window = np.outer(window, window) / window.sum() ** 2
    c1, c2 = 0.01**2, 0.03**2
    values = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            for c in range(a.shape[2]):
                p = a[y : y + 11, x : x + 11, c].astype(np.float64)
                q = b[y : y + 11, x : x + 11, c].astype(np.float64)
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                vpq = (window * (p - mp) * (q - mq)).sum()
                values.append(
                    (2 * mp * mq + c1) * (2 * vpq + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
                )
    return np.mean(values)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_psnr_is_the_formula_per_image(transform):
    a, b = _pair()
    expected = -10 * np.log10(((a - b).astype(np.float64) ** 2).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(transform(metrics.psnr)(jnp.array(a), jnp.array(b)), expected, 1e-5)


def test_psnr_of_equal_images_is_the_ceiling():
    a = jnp.array(_pair()[0])
    np.testing.assert_array_equal(metrics.psnr(a, a), [metrics.PSNR_CEILING] * 3)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_ssim_is_the_formula_per_image(transform):
    a, b = _pair(shape=(2, 16, 14, 3))
    expected = [_ssim_numpy(p, q) for p, q in zip(a, b, strict=True)]
    np.testing.assert_allclose(transform(metrics.ssim)(jnp.array(a), jnp.array(b)), expected, 1e-4)
    np.testing.assert_allclose(metrics.ssim(jnp.array(a), jnp.array(a)), [1.0, 1.0], 1e-6)


def test_metrics_ignore_the_other_images_of_the_batch():
    a, b = (jnp.array(x) for x in _pair())
    for metric in (metrics.psnr, metrics.ssim, metrics.psnr_y):
        alone = jnp.concatenate([metric(a[i : i + 1], b[i : i + 1]) for i in range(3)])
        np.testing.assert_allclose(metric(a, b), alone, 1e-6)


@pytest.mark.parametrize("border", [0, 4])
def test_psnr_y_is_the_formula(border):
    a, b = _pair()

    def luma(x):
        y = (x.astype(np.float64) @ [65.481, 128.553, 24.966] + 16) / 255
        return y[:, border : y.shape[1] - border, border : y.shape[2] - border]

    expected = -10 * np.log10(((luma(a) - luma(b)) ** 2).mean(axis=(1, 2)))
    np.testing.assert_allclose(
        metrics.psnr_y(jnp.array(a), jnp.array(b), border=border), expected, 1e-5
    )


def test_images_that_are_too_small_are_refused():
    small = jnp.zeros((1, 10, 12, 3))
    with pytest.raises(ValueError, match="at least 11x11 px; got 10x12"):
        metrics.ssim(small, small)
    with pytest.raises(ValueError, match="border=5 leaves nothing of images of 10x12"):
        metrics.psnr_y(small, small, border=5)
