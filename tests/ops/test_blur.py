"""Kernels by their definition, the filter against cv2.filter2D."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.ops.blur import filter2d, gaussian_kernels

RNG = np.random.RandomState(0)


def draw_kernels(batch, size=41):
    sigmas = RNG.uniform(0.1, 15, (2, batch)).astype(np.float32)
    theta = RNG.uniform(-np.pi, np.pi, batch).astype(np.float32)
    return gaussian_kernels(*map(jnp.asarray, (sigmas[0], sigmas[1], theta)), size=size)


def opencv(images, kernels):
    pairs = zip(np.asarray(images), np.asarray(kernels), strict=True)
    return np.stack([cv2.filter2D(i, -1, k, borderType=cv2.BORDER_REFLECT_101) for i, k in pairs])


def test_kernels_sum_to_one_and_are_symmetric():
    kernels = draw_kernels(16)
    assert kernels.shape == (16, 41, 41)
    np.testing.assert_allclose(kernels.sum((1, 2)), 1.0, atol=1e-6)
    np.testing.assert_allclose(kernels, kernels[:, ::-1, ::-1], atol=1e-7)


def test_isotropic_kernel_is_the_outer_product_of_opencvs():
    sigma = jnp.asarray([0.8, 3.0, 15.0], jnp.float32)
    kernels = gaussian_kernels(sigma, sigma, jnp.asarray([0.0, 1.0, -2.0]))
    for kernel, s in zip(kernels, sigma, strict=True):
        line = cv2.getGaussianKernel(41, float(s))
        np.testing.assert_allclose(kernel, line @ line.T, atol=1e-6)


def test_angle_turns_the_long_axis_from_x_towards_y():
    theta = jnp.asarray([0.0, np.pi / 2, np.pi / 4])
    kernels = gaussian_kernels(jnp.full(3, 8.0), jnp.full(3, 2.0), theta)
    assert kernels[0, 20, 30] > 100 * kernels[0, 30, 20]
    assert kernels[1, 30, 20] > 100 * kernels[1, 20, 30]
    assert kernels[2, 27, 27] > 100 * kernels[2, 27, 13]


@pytest.mark.parametrize(
    "shape", [(3, 64, 64, 3), (2, 21, 40, 3), (2, 37, 130, 1), (1, 150, 141, 3), (1, 1, 1, 3)]
)
@pytest.mark.parametrize("method", ["matmul", "fft", "auto"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_matches_opencv(shape, method, symmetric):
    images = jnp.asarray(RNG.rand(*shape), jnp.float32)
    if min(shape[1:3]) == 1:
        kernels = jnp.ones((shape[0], 1, 1))
    elif symmetric:
        kernels = draw_kernels(shape[0])
    else:
        random = RNG.rand(shape[0], 15, 15).astype(np.float32) ** 3
        kernels = jnp.asarray(random / random.sum((1, 2), keepdims=True))
    expected = opencv(images, kernels).reshape(shape)
    apply = jax.jit(lambda i, k: filter2d(i, k, method=method, symmetric=symmetric))
    np.testing.assert_allclose(apply(images, kernels), expected, atol=1e-5)


def test_plain_and_vmapped_agree_with_jitted():
    images = jnp.asarray(RNG.rand(2, 2, 32, 32, 3), jnp.float32)
    kernels = draw_kernels(4).reshape(2, 2, 41, 41)
    mapped = jax.vmap(filter2d)(images, kernels)
    jitted = jax.jit(filter2d)(images.reshape(4, 32, 32, 3), kernels.reshape(4, 41, 41))
    np.testing.assert_allclose(mapped.reshape(jitted.shape), jitted, atol=1e-5)
    np.testing.assert_allclose(filter2d(images[0], kernels[0]), mapped[0], atol=1e-5)


@pytest.mark.parametrize("method", ["matmul", "fft"])
def test_gradient_is_the_transposed_filter(method):
    images, other = (jnp.asarray(RNG.rand(1, 24, 24, 1), jnp.float32) for _ in range(2))
    kernels = draw_kernels(1)

    def inner(x):
        return jnp.sum(other * filter2d(x, kernels, method=method))

    # A linear function equals its gradient times its argument.
    gradient = jax.grad(inner)(images)
    np.testing.assert_allclose(jnp.sum(gradient * images), inner(images), rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "kernel", "options", "message"),
    [
        ((1, 20, 64, 3), 41, {}, "20x64.*above 20 pixels"),
        ((1, 64, 64, 3), 40, {}, "odd"),
    ],
)
def test_bad_input_is_refused(shape, kernel, options, message):
    with pytest.raises(ValueError, match=message):
        filter2d(jnp.zeros(shape), jnp.ones((1, kernel, kernel)), **options)


def test_even_kernel_size_is_refused():
    one = jnp.ones(1)
    with pytest.raises(ValueError, match="Kernel size is 40"):
        gaussian_kernels(one, one, one, size=40)
