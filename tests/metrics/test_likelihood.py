"""Bits per dimension against counts by hand, and the baseline of places without context."""

import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.metrics import bits_per_dim, count_values, site_bits_per_dim


def test_a_uniform_guess_costs_log2_of_the_levels():
    values = jnp.arange(24, dtype=jnp.int32).reshape(2, 3, 4, 1) % 8
    np.testing.assert_allclose(bits_per_dim(jnp.zeros((2, 3, 4, 1, 8)), values), 3.0, rtol=1e-6)


def test_bits_are_means_over_every_value_of_a_map():
    probabilities = np.array([0.5, 0.25, 0.125, 0.125])
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(probabilities, jnp.float32)), (2, 1, 2, 2, 4))
    values = jnp.array([[[[0, 1], [2, 3]]], [[[0, 0], [0, 1]]]])
    np.testing.assert_allclose(
        bits_per_dim(logits, values), [(1 + 2 + 3 + 3) / 4, (1 + 1 + 1 + 2) / 4], rtol=1e-6
    )


def test_values_are_counted_at_their_places():
    random = np.random.default_rng(0)
    values = random.integers(0, 5, (7, 2, 3, 2))
    counts = jnp.zeros((2, 3, 2, 5))
    for part in (values[:3], values[3:]):
        counts = count_values(counts, jnp.asarray(part))
    expected = np.stack([(values == k).sum(axis=0) for k in range(5)], axis=-1)
    np.testing.assert_array_equal(counts, expected)


def test_places_cost_their_own_entropy():
    """Each place has its own coin: its bias is worth bits, what the maps have in common is not."""
    random = np.random.default_rng(1)
    share = random.uniform(0, 1, (4, 4, 1))
    values = (random.uniform(0, 1, (4000, 4, 4, 1)) < share).astype(np.int32)
    counts = count_values(jnp.zeros((4, 4, 1, 2)), jnp.asarray(values[:2000]))
    bits = site_bits_per_dim(counts, jnp.asarray(values[2000:]))
    entropy = -np.mean(share * np.log2(share) + (1 - share) * np.log2(1 - share))
    assert abs(float(bits.mean()) - entropy) < 0.02


def test_few_maps_fall_back_on_all_places():
    """The same skewed distribution at every place: a place's own counts of three maps are noise."""
    random = np.random.RandomState(0)
    draws = random.choice(50, (2003, 8, 8, 1), p=random.dirichlet(np.full(50, 0.3)))
    counts = count_values(jnp.zeros((8, 8, 1, 50)), jnp.asarray(draws[:3]))
    shares = np.bincount(draws[3:].ravel(), minlength=50) / draws[3:].size
    entropy = -np.sum(shares * np.log2(shares + 1e-12))
    bits = float(site_bits_per_dim(counts, jnp.asarray(draws[3:])).mean())
    assert entropy < bits < 1.3 * entropy
    # Counting the same maps again changes nothing.
    again = site_bits_per_dim(10 * counts, jnp.asarray(draws[3:]))
    assert float(again.mean()) == pytest.approx(bits, rel=1e-5)


def test_values_never_seen_cost_finitely_much_and_no_counts_are_uniform():
    counts = count_values(jnp.zeros((1, 1, 1, 4)), jnp.zeros((9, 1, 1, 1), jnp.int32))
    unseen = float(site_bits_per_dim(counts, jnp.full((1, 1, 1, 1), 3))[0])
    assert unseen == pytest.approx(-np.log2(0.01 / 4), rel=1e-5)
    nothing = site_bits_per_dim(jnp.zeros((1, 1, 1, 4)), jnp.full((1, 1, 1, 1), 3))
    np.testing.assert_allclose(nothing, 2.0, rtol=1e-5)
