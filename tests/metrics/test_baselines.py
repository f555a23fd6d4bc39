"""The per-site baseline against the entropies that it has to reach."""

import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.metrics import count_sites, site_nll


def test_counts_are_by_site():
    codes = jnp.array([[0, 2], [0, 1], [1, 2]])
    np.testing.assert_array_equal(count_sites(codes, 3), [[2, 1, 0], [0, 1, 2]])


def test_many_maps_reach_the_entropy_of_each_site():
    rng = np.random.RandomState(0)
    probabilities = rng.dirichlet(np.full(5, 0.3), 20)
    draws = np.stack([rng.choice(5, 40_000, p=p) for p in probabilities], axis=1)
    train, heldout = draws[:20_000], draws[20_000:]
    nll = site_nll(count_sites(jnp.asarray(train), 5), jnp.asarray(heldout))
    entropy = -np.sum(probabilities * np.log(probabilities + 1e-12), axis=1).mean()
    assert nll.shape == (20_000,)
    assert float(nll.mean()) == pytest.approx(entropy, rel=0.01)


def test_few_maps_fall_back_on_all_sites():
    rng = np.random.RandomState(0)
    # The same skewed distribution at every site: a site's own counts of three maps are noise.
    draws = rng.choice(50, (2003, 64), p=rng.dirichlet(np.full(50, 0.3)))
    counts = count_sites(jnp.asarray(draws[:3]), 50)
    shares = np.bincount(draws[3:].ravel(), minlength=50) / draws[3:].size
    entropy = -np.sum(shares * np.log(shares + 1e-12))
    nll = float(site_nll(counts, jnp.asarray(draws[3:])).mean())
    assert entropy < nll < 1.3 * entropy
    # Counting the same maps again changes nothing.
    assert float(site_nll(10 * counts, jnp.asarray(draws[3:])).mean()) == pytest.approx(nll, 1e-5)


def test_without_counts_it_is_uniform():
    codes = jnp.zeros((2, 3), jnp.int32)
    nll = site_nll(jnp.zeros((3, 8)), codes)
    np.testing.assert_allclose(nll, np.log(8), rtol=1e-5)
