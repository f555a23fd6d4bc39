"""Motion kernels: mass, size, variety, and the path that they are the histogram of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.ops.blur import STEPS, motion_path, path_kernel

COUNT = 200


def draw(length, seed=0):
    keys = jax.random.split(jax.random.key(seed), COUNT)
    paths = jax.jit(jax.vmap(motion_path))(keys, jnp.full(COUNT, length))
    return np.asarray(paths), np.asarray(jax.jit(jax.vmap(path_kernel))(paths))


def bilinear_histogram(path, size):
    """Every point of the path dealt out to its four neighbours, one after the other."""
    kernel = np.zeros((size + 1, size + 1))
    for x, y in path.astype(np.float64) + size // 2:
        column, row = int(np.floor(x)), int(np.floor(y))
        right, down = x - column, y - row
        kernel[row, column] += (1 - right) * (1 - down)
        kernel[row, column + 1] += right * (1 - down)
        kernel[row + 1, column] += (1 - right) * down
        kernel[row + 1, column + 1] += right * down
    return kernel[:size, :size] / len(path)


@pytest.mark.parametrize("length", [1.0, 12.0, 40.0, 400.0])
def test_kernels_sum_to_one(length):
    _, kernels = draw(length)
    assert kernels.shape == (COUNT, 41, 41)
    assert kernels.min() >= 0
    np.testing.assert_allclose(kernels.sum((1, 2)), 1.0, atol=1e-5)


@pytest.mark.parametrize("length", [5.0, 25.0])
def test_paths_have_their_length_and_lie_around_the_middle(length):
    paths, _ = draw(length)
    assert paths.shape[1] == STEPS
    lengths = np.linalg.norm(np.diff(paths, axis=1), axis=-1).sum(1)
    np.testing.assert_allclose(lengths, length, rtol=1e-4)
    np.testing.assert_allclose(paths.mean(1), 0, atol=1e-4)


def test_kernels_are_the_histogram_of_their_path():
    paths, kernels = draw(20.0)
    for path, kernel in zip(paths[:20], kernels[:20], strict=True):
        np.testing.assert_allclose(kernel, bilinear_histogram(path, 41), atol=1e-6)


def test_kernels_differ_in_form_and_direction():
    paths, kernels = draw(30.0)
    ends = paths[:, -1] - paths[:, 0]
    # From almost straight to curled up, in every direction.
    reach = np.linalg.norm(ends, axis=1) / 30
    assert reach.max() > 0.9
    assert reach.min() < 0.3
    assert np.abs(np.sign(ends).mean(0)).max() < 0.2
    assert len(np.unique(kernels.round(6), axis=0)) == COUNT


def test_no_length_is_the_identity_and_a_long_path_fits():
    _, kernels = draw(0.0)
    assert np.all(kernels[:, 20, 20] == 1)
    assert np.all(kernels.sum((1, 2)) == 1)
    line = jnp.stack([jnp.linspace(-300.0, 300.0, 128), jnp.zeros(128)], axis=1)
    kernel = path_kernel(line)
    assert kernel[20].sum() > 1 - 1e-5
    assert kernel[20, 0] > 0
    np.testing.assert_allclose(kernel[20, 1:-1], 1 / 40, atol=0.01)


def test_even_kernel_size_is_refused():
    with pytest.raises(ValueError, match="Kernel size is 40"):
        path_kernel(jnp.zeros((128, 2)), size=40)
