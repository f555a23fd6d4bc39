import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax import losses

VALUES, TARGETS = jnp.array([[1.0, -2.0], [0.5, 4.0]]), jnp.array([[0.0, 1.0], [0.5, 2.0]])
REAL, FAKE = jnp.array([[2.0, 0.5], [-1.0, 1.0]]), jnp.array([[-3.0, 0.5], [1.0, -0.5]])


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_by_hand(transform):
    np.testing.assert_allclose(transform(losses.l1)(VALUES, TARGETS), (1 + 3 + 0 + 2) / 4)
    np.testing.assert_allclose(transform(losses.mse)(VALUES, TARGETS), (1 + 9 + 0 + 4) / 4)
    np.testing.assert_allclose(transform(losses.hinge_generator)(FAKE), (3 - 0.5 - 1 + 0.5) / 4)
    real, fake = transform(losses.hinge_discriminator)(REAL, FAKE)
    np.testing.assert_allclose(real, (0 + 0.5 + 2 + 0) / 4)
    np.testing.assert_allclose(fake, (0 + 1.5 + 2 + 0.5) / 4)


def test_hinge_discriminator_stops_beyond_the_margin():
    def total(real, fake):
        return sum(losses.hinge_discriminator(real, fake))

    to_real, to_fake = jax.grad(total, argnums=(0, 1))(REAL, FAKE)
    np.testing.assert_allclose(to_real, [[0, -0.25], [-0.25, 0]])
    np.testing.assert_allclose(to_fake, [[0, 0.25], [0.25, 0.25]])


def test_cross_entropy():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 5))
    indices = jnp.array([[0, 4, 2], [1, 1, 3]])
    p = np.exp(np.asarray(logits, np.float64))
    p /= p.sum(-1, keepdims=True)
    by_hand = -np.mean(np.log(np.take_along_axis(p, np.asarray(indices)[..., None], -1)))
    np.testing.assert_allclose(losses.cross_entropy(logits, indices), by_hand, rtol=1e-6)
    uniform = losses.cross_entropy(jnp.zeros((1, 4, 7)), jnp.zeros((1, 4), jnp.int32))
    np.testing.assert_allclose(uniform, np.log(7), rtol=1e-6)


def test_cross_entropy_of_large_and_of_half_precision_logits():
    logits = jnp.array([[[3e4, 0.0, -3e4]]])
    np.testing.assert_allclose(losses.cross_entropy(logits, jnp.array([[0]])), 0.0)
    np.testing.assert_allclose(losses.cross_entropy(logits, jnp.array([[1]])), 3e4)
    half = losses.cross_entropy(logits.astype(jnp.bfloat16), jnp.array([[0]]))
    assert half.dtype == jnp.float32


def test_gradient_ratio():
    reconstruction, gan = jnp.full((3, 3, 2, 2), 2.0), jnp.full((3, 3, 2, 2), 0.5)
    np.testing.assert_allclose(losses.gradient_ratio(reconstruction, gan), 4.0, rtol=1e-4)
    # delta is added to the norm below, 12 / (0 + delta), and not to its square.
    for delta in (1e-4, 1e-6):
        ratio = losses.gradient_ratio(reconstruction, 0 * gan, delta=delta)
        np.testing.assert_allclose(ratio, 12 / delta, rtol=1e-5)
    default = losses.gradient_ratio(reconstruction, 0 * gan)
    np.testing.assert_allclose(default, 12e4, rtol=1e-5)


def test_gradient_ratio_is_a_constant_to_gradients():
    x = jnp.arange(1.0, 5.0)
    gradients = jax.grad(losses.gradient_ratio, argnums=(0, 1))(x, 2 * x)
    assert not any(np.any(g) for g in gradients)
