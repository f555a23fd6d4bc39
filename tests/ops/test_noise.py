"""Poisson counts against SciPy's distribution, moments of both kinds of noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from codeformer_jax.ops import noise

RATES = [0.0, 0.05, 0.7, 2.0, 3.99, 4.01, 7.0, 30.0, 128.0, 256.0]
NORMAL = np.random.RandomState(0).standard_normal((len(RATES), 20_000)).astype(np.float32)


@pytest.mark.parametrize("form", ["plain", "jit", "vmap"])
def test_quantiles_are_scipys(form):
    functions = {"plain": noise.poisson_quantile, "jit": jax.jit(noise.poisson_quantile)}
    function = functions.get(form, jax.vmap(noise.poisson_quantile))
    rates = np.broadcast_to(np.float32(RATES)[:, None], NORMAL.shape)
    ours = np.asarray(function(jnp.asarray(NORMAL), jnp.asarray(rates)))
    uniform = scipy.stats.norm.cdf(NORMAL.astype(np.float64))
    expected = np.maximum(scipy.stats.poisson.ppf(uniform, rates.astype(np.float64)), 0)
    assert np.abs(ours - expected).max() <= 1
    wrong = (ours != expected).mean(1)
    assert wrong.max() < 3e-3, dict(zip(RATES, wrong, strict=True))


def test_counts_stay_finite_far_out():
    normal = jnp.tile(jnp.asarray([-5.5, 5.5, 0.0]), (len(RATES), 1))
    counts = noise.poisson_quantile(normal, jnp.tile(jnp.asarray(RATES)[:, None], (1, 3)))
    assert np.all(np.isfinite(counts))
    assert counts.min() == 0


@pytest.mark.parametrize("gray", [False, True])
def test_poisson_noise_has_its_deviation(gray):
    normal = jax.random.normal(jax.random.key(1), (3, 200, 200, 3))
    colour = jnp.asarray([0.9, 0.25, 0.05])
    images = jnp.broadcast_to(colour, normal.shape)
    strength = jnp.asarray([0.5, 1.0, 3.0])
    result = np.asarray(noise.poisson_noise(images, normal, strength, jnp.full(3, gray)))
    light = float(colour @ np.array([0.299, 0.587, 0.114])) if gray else np.asarray(colour)
    expected = np.asarray(strength)[:, None] * np.sqrt(light / 256)
    np.testing.assert_allclose(result.std((1, 2)), np.broadcast_to(expected, (3, 3)), rtol=0.02)
    np.testing.assert_allclose(result.mean((1, 2)), 0, atol=2e-3)
    same = np.all(result == result[..., :1])
    assert same if gray else not same


@pytest.mark.parametrize("gray", [False, True])
def test_gaussian_noise(gray):
    normal = jax.random.normal(jax.random.key(2), (2, 64, 64, 3))
    sigma = jnp.asarray([0.1, 0.0])
    result = np.asarray(noise.gaussian_noise(normal, sigma, jnp.full(2, gray)))
    expected = np.asarray(normal[..., :1] if gray else normal)
    np.testing.assert_allclose(result[0], np.broadcast_to(0.1 * expected[0], (64, 64, 3)), 1e-6)
    assert not result[1].any()
