"""YCbCr against the standard's formulas on every kind of colour, and the way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.ops.color import rgb_to_ycbcr, ycbcr_to_rgb


@pytest.fixture(scope="module")
def colours():
    steps = np.array([0, 1, 2, 63, 64, 127, 128, 129, 191, 200, 254, 255], np.float32)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1)
    return jnp.asarray(grid.reshape(1, 144, 12, 3))


@pytest.mark.parametrize("form", ["plain", "jit", "vmap"])
def test_matches_the_standard(colours, form):
    function = {"plain": rgb_to_ycbcr, "jit": jax.jit(rgb_to_ycbcr), "vmap": jax.vmap(rgb_to_ycbcr)}
    ours = np.asarray(function[form](colours))
    r, g, b = np.moveaxis(np.asarray(colours, np.float64), -1, 0)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    exact = np.stack([luma, 128 + (b - luma) / 1.772, 128 + (r - luma) / 1.402], axis=-1)
    # Half a level, but for what 16-bit weights lose.
    assert np.abs(ours - exact).max() < 0.51
    assert np.array_equal(ours, np.round(ours))
    assert ours.min() >= 0
    assert ours.max() <= 255


def test_there_and_back_stays_within_rounding(colours):
    back = ycbcr_to_rgb(rgb_to_ycbcr(colours))
    assert float(jnp.max(jnp.abs(back - colours))) <= 2


def test_primaries_are_the_published_ones():
    primaries = jnp.asarray([[255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128]], jnp.float32)
    expected = [[76, 85, 255], [150, 44, 21], [29, 255, 107], [128, 128, 128]]
    np.testing.assert_array_equal(rgb_to_ycbcr(primaries), expected)


def test_straight_through_gradient_is_the_linear_map():
    colour = jnp.asarray([100.0, 50.0, 200.0])
    jacobian = jax.jacobian(lambda x: rgb_to_ycbcr(x, gradient="straight_through"))(colour)
    np.testing.assert_allclose(jacobian[0], [0.299, 0.587, 0.114], atol=1e-4)
    assert not np.any(jax.jacobian(rgb_to_ycbcr)(colour))
