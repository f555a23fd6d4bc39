"""Kernels of the second order by their formulas in float64; J1 against SciPy."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from codeformer_jax.ops.kernels import bessel_j1, identity_kernels, shaped_kernels, sinc_kernels

SIZE = 21
RADIUS = np.array([3, 5, 10, 10])


def crop(values, radius):
    middle = SIZE // 2
    inside = np.zeros((SIZE, SIZE))
    part = slice(middle - radius, middle + radius + 1)
    inside[part, part] = values[part, part]
    return inside / inside.sum()


@pytest.mark.parametrize("plateau", [False, True])
@pytest.mark.parametrize("form", ["plain", "jit", "vmap"])
def test_shapes_follow_their_formula(plateau, form):
    sx, sy = np.array([0.3, 1.0, 2.5, 3.0]), np.array([0.3, 2.0, 2.5, 0.4])
    theta, beta = np.array([0.0, 0.7, 0.0, -2.0]), np.array([1.0, 0.5, 4.0, 2.0])
    given = [jnp.asarray(v, jnp.float32) for v in (sx, sy, theta, beta)]
    given += [jnp.full(4, plateau), jnp.asarray(RADIUS)]

    def make(*values):
        return shaped_kernels(*values, size=SIZE)

    if form == "vmap":
        ours = jax.vmap(make)(*(v[:, None] for v in given))[:, 0]
    else:
        ours = (jax.jit(make) if form == "jit" else make)(*given)
    axis = np.arange(SIZE) - SIZE // 2
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    for i in range(4):
        turn = np.array(
            [[np.cos(theta[i]), -np.sin(theta[i])], [np.sin(theta[i]), np.cos(theta[i])]]
        )
        inverse = np.linalg.inv(turn @ np.diag([sx[i] ** 2, sy[i] ** 2]) @ turn.T)
        power = np.einsum("yxi,ij,yxj->yx", grid, inverse, grid) ** beta[i]
        expected = crop(1 / (1 + power) if plateau else np.exp(-power / 2), RADIUS[i])
        np.testing.assert_allclose(ours[i], expected, atol=1e-6)
        np.testing.assert_allclose(ours[i], ours[i, ::-1, ::-1], atol=1e-7)


def test_exponent_one_is_opencvs_gaussian():
    two, one = jnp.asarray([2.0]), jnp.ones(1)
    no = jnp.asarray([False])
    ours = shaped_kernels(two, two, 0 * one, one, no, jnp.asarray([10]), size=SIZE)[0]
    line = cv2.getGaussianKernel(SIZE, 2.0)
    np.testing.assert_allclose(ours, line @ line.T, atol=1e-7)


def test_bessel_is_scipys():
    x = np.linspace(-60, 60, 4001).astype(np.float32)
    expected = scipy.special.j1(x.astype(np.float64))
    np.testing.assert_allclose(bessel_j1(jnp.asarray(x)), expected, atol=2e-6)


@pytest.mark.parametrize("form", ["plain", "jit"])
def test_sinc_follows_its_formula(form):
    cutoff = np.array([np.pi / 5, 1.2, 2.0, np.pi])

    def make(c, r):
        return sinc_kernels(c, r, size=SIZE)

    make = jax.jit(make) if form == "jit" else make
    ours = make(jnp.asarray(cutoff, jnp.float32), jnp.asarray(RADIUS))
    axis = np.arange(SIZE) - SIZE // 2
    distance = np.hypot(*np.meshgrid(axis, axis))
    for i, w in enumerate(cutoff):
        with np.errstate(invalid="ignore", divide="ignore"):
            values = w / (2 * np.pi * distance) * scipy.special.j1(w * distance)
        values[SIZE // 2, SIZE // 2] = w**2 / (4 * np.pi)
        np.testing.assert_allclose(ours[i], crop(values, RADIUS[i]), atol=2e-6)
    assert np.all(ours[1:].min((1, 2)) < 0)  # What makes rings.


def test_sinc_keeps_what_is_below_the_cutoff_and_removes_what_is_above():
    kernel = sinc_kernels(jnp.asarray([np.pi / 2], jnp.float32), jnp.asarray([10]), size=SIZE)[0]
    response = np.abs(np.fft.fft2(np.asarray(kernel), (64, 64)))[0]
    assert np.all(np.abs(response[:12] - 1) < 0.15)  # Up to 3/8 of pi.
    assert np.all(response[20:32] < 0.15)  # From 5/8 of pi.


def test_identity_changes_nothing():
    kernels = identity_kernels(2, SIZE)
    assert kernels.shape == (2, SIZE, SIZE)
    assert np.all(kernels.sum((1, 2)) == 1)
    assert np.all(kernels[:, 10, 10] == 1)


def test_even_kernel_size_is_refused():
    with pytest.raises(ValueError, match="Kernel size is 20"):
        identity_kernels(1, 20)
