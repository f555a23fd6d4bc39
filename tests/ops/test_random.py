"""Deviates that are normal, independent, and the same on every canvas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from codeformer_jax.ops.random import standard_normal
from codeformer_jax.system.keys import make_key, rbg_keys, threefry_keys

KEYS = jax.random.split(jax.random.key(0), 3)


def test_are_normal():
    values = np.asarray(standard_normal(KEYS, 201, 200, 3))
    assert values.shape == (3, 201, 200, 3)
    for one in values:
        assert stats.kstest(one.ravel(), "norm").pvalue > 1e-3
    assert np.abs(values).max() < 5.5
    np.testing.assert_allclose(values.mean(), 0, atol=0.01)
    np.testing.assert_allclose(stats.kurtosis(values.ravel()), 0, atol=0.05)


def test_places_channels_and_keys_are_independent():
    values = np.asarray(standard_normal(KEYS, 200, 200, 3))
    pairs = {
        "rows of one block": (values[:, ::2], values[:, 1::2]),
        "rows of two blocks": (values[:, 1:-1:2], values[:, 2::2]),
        "columns": (values[:, :, :-1], values[:, :, 1:]),
        "channels": (values[..., 0], values[..., 1]),
        "keys": (values[0], values[1]),
        "transposed": (values, values.swapaxes(1, 2)),
    }
    for name, (a, b) in pairs.items():
        correlation = np.corrcoef(a.ravel(), b.ravel())[0, 1]
        # A transposed picture shares its diagonal.
        assert abs(correlation) < 0.012, name


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 5, 3), (8, 9, 3), (30, 31, 3)])
def test_a_place_has_the_same_number_on_every_canvas(shape):
    height, width, channels = shape
    large = standard_normal(KEYS, 40, 33, channels)
    np.testing.assert_array_equal(standard_normal(KEYS, *shape), large[:, :height, :width])


def test_a_picture_does_not_depend_on_the_others_of_its_batch():
    together = jax.jit(lambda keys: standard_normal(keys, 16, 16, 3))(KEYS)
    alone = jnp.concatenate([standard_normal(KEYS[i : i + 1], 16, 16, 3) for i in range(3)])
    np.testing.assert_allclose(alone, together, atol=1e-6)
    assert np.all(together[0] != together[1])


@pytest.mark.parametrize("implementation", ["rbg", "unsafe_rbg"])
def test_keys_of_other_implementations(implementation):
    values = standard_normal(jax.random.key(1, impl=implementation)[None], 64, 64, 3)
    assert stats.kstest(np.asarray(values).ravel(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("implementation", ["rbg", "unsafe_rbg"])
def test_keys_are_threefrys_whatever_the_default_is(implementation):
    expected = jax.random.key_data(jax.random.key(3, impl="threefry2x32"))
    with jax.default_prng_impl(implementation):
        key = make_key(3)
    assert str(jax.random.key_impl(key)) == "threefry2x32"
    np.testing.assert_array_equal(jax.random.key_data(key), expected)


@pytest.mark.parametrize("implementation", ["rbg", "unsafe_rbg"])
def test_threefry_keys_follow_each_from_its_own(implementation):
    keys = jax.random.split(jax.random.key(0, impl=implementation), 6)
    found = threefry_keys(keys)
    data = np.asarray(jax.random.key_data(found))
    assert len(np.unique(data, axis=0)) == 6
    alone = [jax.random.key_data(threefry_keys(key)) for key in keys]
    np.testing.assert_array_equal(alone, data)
    mapped = jax.jit(jax.vmap(threefry_keys))(keys)
    np.testing.assert_array_equal(jax.random.key_data(mapped), data)
    of_a_map = threefry_keys(keys.reshape(2, 3))
    np.testing.assert_array_equal(jax.random.key_data(of_a_map).reshape(6, 2), data)


def test_threefry_keys_keep_threefrys():
    assert threefry_keys(KEYS) is KEYS


def test_rbg_keys():
    keys = rbg_keys(KEYS)
    assert keys.shape == KEYS.shape
    assert str(jax.random.key_impl(keys)) == "rbg"
    values = [np.asarray(jax.random.normal(key, (64, 64))) for key in keys]
    assert all(stats.kstest(one.ravel(), "norm").pvalue > 1e-3 for one in values)
    assert abs(np.corrcoef(values[0].ravel(), values[1].ravel())[0, 1]) < 0.05
