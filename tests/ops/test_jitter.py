"""Colour changes against colorsys and torchvision's definitions written out in NumPy."""

import colorsys
import itertools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.ops import jitter

RNG = np.random.RandomState(0)
IMAGES = RNG.rand(4, 12, 10, 3).astype(np.float32)
# Grays, black, white and primaries have no hue, or one on the edge between two cases.
IMAGES[0, 0, :8] = [list(c) for c in itertools.product((0, 1), repeat=3)]
IMAGES[0, 1, :] = 0.4


def gray(image):
    return image @ np.array([0.299, 0.587, 0.114])


def reference(kind, image, factor):
    """torchvision's adjust_*, by formula, in float64."""
    image = image.astype(np.float64)
    if kind == jitter.BRIGHTNESS:
        changed = factor * image
    elif kind == jitter.CONTRAST:
        changed = factor * image + (1 - factor) * gray(image).mean()
    elif kind == jitter.SATURATION:
        changed = factor * image + (1 - factor) * gray(image)[..., None]
    else:
        turned = [colorsys.rgb_to_hsv(*pixel) for pixel in image.reshape(-1, 3)]
        turned = [colorsys.hsv_to_rgb((h + factor) % 1, s, v) for h, s, v in turned]
        changed = np.array(turned).reshape(image.shape)
    return np.clip(changed, 0, 1)


def each(kind, factors):
    return np.stack([reference(kind, i, f) for i, f in zip(IMAGES, factors, strict=True)])


ADJUST = {
    jitter.BRIGHTNESS: (jitter.adjust_brightness, [0.0, 0.5, 1.0, 1.5]),
    jitter.CONTRAST: (jitter.adjust_contrast, [0.0, 0.5, 1.0, 1.5]),
    jitter.SATURATION: (jitter.adjust_saturation, [0.0, 0.5, 1.0, 1.5]),
    jitter.HUE: (jitter.adjust_hue, [-0.5, -0.1, 0.0, 0.3]),
}


@pytest.mark.parametrize("kind", ADJUST)
@pytest.mark.parametrize("form", ["plain", "jit", "vmap"])
def test_adjustment_equals_its_definition(kind, form):
    function, factors = ADJUST[kind]
    images, values = jnp.asarray(IMAGES), jnp.asarray(factors)
    if form == "vmap":
        result = jax.vmap(function)(images[:, None], values[:, None])[:, 0]
    else:
        result = (jax.jit(function) if form == "jit" else function)(images, values)
    np.testing.assert_allclose(result, each(kind, factors), atol=2e-6)


def test_gray_is_opencvs():
    expected = cv2.cvtColor(IMAGES.reshape(-1, 10, 3), cv2.COLOR_RGB2GRAY).reshape(4, 12, 10)
    for channel in np.moveaxis(np.asarray(jitter.to_gray(jnp.asarray(IMAGES))), -1, 0):
        np.testing.assert_allclose(channel, expected, atol=1e-6)


@pytest.mark.parametrize("form", ["plain", "jit"])
def test_jitter_goes_in_each_images_own_order(form):
    orders = list(itertools.permutations(range(4)))
    images = np.tile(IMAGES[1:2], (len(orders), 1, 1, 1))
    factors = {0: 1.4, 1: 0.6, 2: 1.5, 3: -0.1}
    arguments = [jnp.full(len(orders), factors[k]) for k in range(4)]
    function = jax.jit(jitter.colour_jitter) if form == "jit" else jitter.colour_jitter
    result = np.asarray(function(jnp.asarray(images), *arguments, jnp.asarray(orders)))
    for ours, order in zip(result, orders, strict=True):
        expected = IMAGES[1]
        for kind in order:
            expected = reference(kind, expected, factors[kind])
        np.testing.assert_allclose(ours, expected, atol=5e-6)
    # Clipping makes the order matter.
    assert len(np.unique(result.round(4), axis=0)) > 12


def test_neutral_jitter_keeps_every_bit():
    one, zero = jnp.ones(4), jnp.zeros(4)
    order = jnp.asarray([[3, 1, 2, 0]] * 4)
    result = jitter.colour_jitter(jnp.asarray(IMAGES), one, one, one, zero, order)
    np.testing.assert_array_equal(result, IMAGES)
