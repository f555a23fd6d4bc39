"""Rounding: the tie rules, and both gradients with the same values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.ops.rounding import half_away, half_up, rounded, to_8_bits

X = jnp.asarray([-2.5, -1.5, -0.5, -0.2, 0.0, 0.5, 1.5, 2.4999, 254.5], jnp.float32)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (jnp.round, [-2, -2, 0, 0, 0, 0, 2, 2, 254]),
        (half_up, [-2, -1, 0, 0, 0, 1, 2, 2, 255]),
        (half_away, [-3, -2, -1, 0, 0, 1, 2, 2, 255]),
    ],
)
def test_ties_and_gradients(function, expected):
    def total(x, gradient):
        return jnp.sum(rounded(x, function, gradient=gradient))

    for gradient, slope in (("zero", 0.0), ("straight_through", 1.0)):
        np.testing.assert_array_equal(rounded(X, function, gradient=gradient), expected)
        derivative = jax.grad(total)(X, gradient)
        np.testing.assert_array_equal(derivative, np.full(X.shape, slope))


def test_to_8_bits_clips_and_lies_on_the_grid():
    values = to_8_bits(jnp.asarray([-0.3, 0.0, 0.5, 0.999, 1.7], jnp.float32))
    np.testing.assert_allclose(values * 255, [0, 0, 128, 255, 255], atol=1e-4)


def test_unknown_gradient_is_named():
    with pytest.raises(Exception, match="exact"):
        rounded(X, gradient="exact")
