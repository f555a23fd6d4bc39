"""How well codes are predicted and how evenly a codebook is used."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from codeformer_jax.nn.quantizer import code_perplexity


@flax.struct.dataclass
class CodebookUsage:
    """How a codebook of K codes is used; scalars.

    Attributes:
        perplexity: exp of the entropy of code use, 1 (one code) to K (all alike).
        used: codes that occur.
        dead: codes that do not.
        commonest_share: share of the commonest code, 0..1: the accuracy of always guessing it.
    """

    perplexity: Float[Array, ""]
    used: Int[Array, ""]
    dead: Int[Array, ""]
    commonest_share: Float[Array, ""]


def codebook_usage(counts: Float[Array, "k"]) -> CodebookUsage:
    """Usage statistics of how often each code occurred, [K]; all zero counts give perplexity 1."""
    used = jnp.sum(counts > 0)
    return CodebookUsage(
        perplexity=code_perplexity(counts),
        used=used,
        dead=counts.shape[0] - used,
        commonest_share=jnp.max(counts) / jnp.maximum(counts.sum(), 1.0),
    )


def code_accuracy(predicted: Int[Array, "b n"], targets: Int[Array, "b n"]) -> Float[Array, "b"]:
    """Share of each image's sites whose code is predicted, 0..1."""
    return jnp.mean((predicted == targets).astype(jnp.float32), axis=1)


def code_cross_entropy(
    logits: Float[Array, "b n k"], targets: Int[Array, "b n"]
) -> Float[Array, "b"]:
    """Cross entropy of each image's codes in nats per site (a uniform guess scores log K)."""
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    chosen = jnp.take_along_axis(log_probabilities, targets[..., None], axis=-1)
    return -jnp.mean(chosen[..., 0], axis=1)
