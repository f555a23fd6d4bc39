import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import support

from codeformer_jax.nn import LPIPS
from codeformer_jax.nn.perceptual import IMAGENET_MEAN, IMAGENET_STD

IMAGES, TARGETS = (jnp.asarray(support.images(32, seed, seed + 1)) for seed in (0, 2))


@pytest.fixture(scope="module")
def variables():
    yield support.seeded_lpips(support.load("lpips"))[1]
    jax.clear_caches()


@pytest.fixture(scope="module")
def distance():
    return jax.jit(LPIPS().apply)


def test_one_symmetric_positive_value_per_image(variables, distance):
    forth, back = distance(variables, IMAGES, TARGETS), distance(variables, TARGETS, IMAGES)
    assert forth.shape == (2,)
    assert (np.asarray(forth) > 0.01).all()
    np.testing.assert_allclose(forth, back, rtol=1e-4)
    first = distance(variables, IMAGES[:1], TARGETS[:1])
    np.testing.assert_allclose(first, forth[:1], rtol=1e-4)


def test_nearer_images_are_nearer(variables, distance):
    near = distance(variables, 0.9 * IMAGES + 0.1 * TARGETS, IMAGES)
    assert (np.asarray(near) < np.asarray(distance(variables, TARGETS, IMAGES))).all()
    np.testing.assert_allclose(distance(variables, IMAGES, IMAGES), 0.0, atol=1e-12)


def test_normalising_twice_is_normalising_the_input_once_more(variables, distance):
    mean, std = (np.array(v, np.float32)[None, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    mapped = [((x + 1) / 2 - mean) / std for x in (IMAGES, TARGETS)]
    twice = jax.jit(LPIPS(normalize_twice=True).apply)(variables, IMAGES, TARGETS)
    np.testing.assert_allclose(twice, distance(variables, *mapped), rtol=1e-4)
    assert not np.allclose(twice, distance(variables, IMAGES, TARGETS), rtol=1e-2)


def test_gradients_are_finite_also_at_the_target(variables):
    gradient = jax.jit(jax.grad(lambda x, y: LPIPS().apply(variables, x, y).sum()))
    for target in (TARGETS, IMAGES):
        assert np.isfinite(gradient(IMAGES, target)).all()
    assert np.abs(gradient(IMAGES, TARGETS)).max() > 0
