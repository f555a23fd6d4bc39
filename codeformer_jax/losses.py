"""Losses of the three stages as pure functions; they return float32 scalars."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from codeformer_jax.ops.checks import AnyArray, as_features, as_integers, as_pair


def l1(images: AnyArray, targets: AnyArray) -> Float[Array, ""]:
    """Returns the mean absolute difference of two floating-point arrays of one shape."""
    images, targets = as_pair(images=images, targets=targets)
    return jnp.mean(jnp.abs(images - targets))


def mse(values: AnyArray, targets: AnyArray) -> Float[Array, ""]:
    """Returns the mean squared difference of two floating-point arrays of one shape."""
    values, targets = as_pair(values=values, targets=targets)
    return jnp.mean(jnp.square(values - targets))


def cross_entropy(logits: AnyArray, indices: AnyArray) -> Float[Array, ""]:
    """Returns the mean over sites of -log softmax(logits)[index] (CodeFormer, eq. 5).

    Args:
        logits: floating point [b, n, K].
        indices: integers [b, n] in 0..K - 1.

    Raises:
        ValueError: wrong shapes.
        TypeError: wrong types.
    """
    logits = as_features(logits, "logits", ("batch", "sites", "codes"), dtype=logits.dtype)
    indices = as_integers(indices, "indices", ("batch", "sites"))
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.mean(jnp.take_along_axis(log_probabilities, indices[..., None], axis=-1))


def hinge_generator(fake_logits: Float[Array, "*s"]) -> Float[Array, ""]:
    """Returns -mean(D(fake)), which the generator minimises."""
    return -jnp.mean(fake_logits)


def hinge_discriminator(
    real_logits: Float[Array, "*s"], fake_logits: Float[Array, "*s"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the two hinge losses of a discriminator, which minimises their sum.

    Taming Transformers takes half of the sum.

    Args:
        real_logits: D(real).
        fake_logits: D(fake).

    Returns:
        mean(relu(1 - D(real))) and mean(relu(1 + D(fake))).
    """
    return jnp.mean(jax.nn.relu(1 - real_logits)), jnp.mean(jax.nn.relu(1 + fake_logits))


def gradient_ratio(
    reconstruction_gradient: Float[Array, "*s"],
    gan_gradient: Float[Array, "*s"],
    *,
    delta: float = 1e-4,
) -> Float[Array, ""]:
    """Returns lambda = ||grad_L rec|| / (||grad_L gan|| + delta), before clipping (VQGAN, eq. 7).

    Args:
        reconstruction_gradient: gradient of the reconstruction loss by the kernel of the last
            layer L.
        gan_gradient: gradient of the generator's loss by the same kernel.
        delta: the paper's is 1e-6; the default is that of the published code.
    """
    norms = [jnp.linalg.norm(g.reshape(-1)) for g in (reconstruction_gradient, gan_gradient)]
    return jax.lax.stop_gradient(norms[0] / (norms[1] + delta))
