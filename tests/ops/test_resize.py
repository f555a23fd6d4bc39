"""Bilinear resizing on canvases against cv2.resize."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.ops.resize import resize_bilinear

# (source height, source width, target height, target width) on canvases of side 64.
SIZES = [
    (64, 64, 64, 64),
    (64, 64, 23, 23),
    (64, 64, 32, 32),
    (64, 64, 1, 1),
    (1, 1, 64, 64),
    (2, 3, 64, 61),
    (17, 40, 64, 5),
    (63, 31, 7, 64),
    (20, 20, 13, 19),
    (5, 64, 10, 32),
]


@pytest.fixture(scope="module")
def canvases():
    return np.random.RandomState(1).rand(len(SIZES), 64, 64, 3).astype(np.float32)


def check(resized, canvases, tolerance=1e-5):
    for index, (h, w, th, tw) in enumerate(SIZES):
        expected = cv2.resize(canvases[index, :h, :w], (tw, th), interpolation=cv2.INTER_LINEAR)
        ours = np.asarray(resized[index, :th, :tw])
        np.testing.assert_allclose(ours, expected, atol=tolerance, err_msg=str(SIZES[index]))


@pytest.mark.parametrize("method", ["matmul", "gather", "auto"])
@pytest.mark.parametrize("jit", [False, True])
def test_matches_opencv_at_traced_sizes(canvases, method, jit):
    sizes = jnp.asarray(SIZES, jnp.int32).T

    def run(images, sizes):
        return resize_bilinear(images, *sizes, method=method)

    check((jax.jit(run) if jit else run)(jnp.asarray(canvases), sizes), canvases)


@pytest.mark.parametrize("method", ["matmul", "gather"])
def test_what_lies_beyond_the_valid_corner_does_not_matter(canvases, method):
    sizes = jnp.asarray(SIZES, jnp.int32).T
    spoiled = canvases.copy()
    for index, (h, w, *_) in enumerate(SIZES):
        spoiled[index, h:] = 1e6
        spoiled[index, :, w:] = -1e6
    check(resize_bilinear(jnp.asarray(spoiled), *sizes, method=method), spoiled)


def test_vmapped(canvases):
    sizes = jnp.asarray(SIZES, jnp.int32)[:, None]

    def run(image, size):
        return resize_bilinear(image, *size.T)

    check(jax.vmap(run)(jnp.asarray(canvases)[:, None], sizes)[:, 0], canvases)


def test_another_canvas_repeats_the_edge():
    images = jnp.asarray(np.random.RandomState(2).rand(1, 8, 8, 1), jnp.float32)
    size = [jnp.asarray([n]) for n in (8, 8, 4, 5)]
    resized = resize_bilinear(images, *size, canvas=(6, 9))
    assert resized.shape == (1, 6, 9, 1)
    np.testing.assert_allclose(resized[0, 5, :5], resized[0, 3, :5], atol=1e-6)
    np.testing.assert_allclose(resized[0, :, 8], resized[0, :, 4], atol=1e-6)


@pytest.mark.parametrize("method", ["matmul", "gather"])
def test_large_sizes_stay_exact(method):
    image = np.random.RandomState(3).rand(1, 300, 512, 1).astype(np.float32)
    size = [jnp.asarray([n]) for n in (300, 512, 189, 61)]
    resized = resize_bilinear(jnp.asarray(image), *size, method=method)[0, :189, :61, 0]
    expected = cv2.resize(image[0], (61, 189), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(resized, expected, atol=2e-6)


def test_gradient_of_both_methods_agrees():
    images = jnp.asarray(np.random.RandomState(4).rand(1, 16, 16, 1), jnp.float32)
    size = [jnp.asarray([n]) for n in (16, 16, 5, 7)]

    def energy(x, method):
        return jnp.sum(resize_bilinear(x, *size, method=method)[:, :5, :7] ** 2)

    matmul, gather = (jax.grad(energy)(images, m) for m in ("matmul", "gather"))
    np.testing.assert_allclose(matmul, gather, atol=1e-5)
    assert float(jnp.abs(matmul).max()) > 0


def test_empty_canvas_is_refused():
    one = jnp.ones(1, jnp.int32)
    with pytest.raises(ValueError, match="canvas is"):
        resize_bilinear(jnp.zeros((1, 8, 8, 3)), one, one, one, one, canvas=(0, 4))
