"""Accuracy of predicted codes, and use of a codebook."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from codeformer_jax.nn.quantizer import code_perplexity


@flax.struct.dataclass
class CodebookUsage:
    """Use of a codebook of K codes; scalars.

    Attributes:
        perplexity: exp of the entropy of code use, 1 (one code) to K (even use).
        used: codes that occur.
        dead: codes that do not occur.
        commonest_share: share of the commonest code, 0..1: the accuracy of always guessing it.
    """

    perplexity: Float[Array, ""]
    used: Int[Array, ""]
    dead: Int[Array, ""]
    commonest_share: Float[Array, ""]


def codebook_usage(counts: Float[Array, "k"]) -> CodebookUsage:
    """Returns statistics of the counts of each code [K]; counts of zero give perplexity 1."""
    used = jnp.sum(counts > 0)
    return CodebookUsage(
        perplexity=code_perplexity(counts),
        used=used,
        dead=counts.shape[0] - used,
        commonest_share=jnp.max(counts) / jnp.maximum(counts.sum(), 1.0),
    )


def code_accuracy(predicted: Int[Array, "b n"], targets: Int[Array, "b n"]) -> Float[Array, "b"]:
    """Returns the share of each image's codes that are predicted.

    Args:
        predicted: predicted codes.
        targets: true codes.

    Returns:
        Accuracy of each image, 0..1.
    """
    return jnp.mean((predicted == targets).astype(jnp.float32), axis=1)


def code_cross_entropy(
    logits: Float[Array, "b n k"], targets: Int[Array, "b n"]
) -> Float[Array, "b"]:
    """Returns the mean cross entropy of each image's codes.

    Args:
        logits: logits of the K codes at each site.
        targets: true codes.

    Returns:
        Nats per code; log K for a uniform guess.
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    chosen = jnp.take_along_axis(log_probabilities, targets[..., None], axis=-1)
    return -jnp.mean(chosen[..., 0], axis=1)
