"""Likelihood of maps of codes or pixels in bits per dimension.

A dimension is one value of a map: a site of a map of codes, a channel of a pixel of an RGB picture.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Weights of a place's own statistics in the mixture with those of all places.
SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.97, 1.0 - 1e-3)
_UNIFORM = 0.01


def log_likelihood(logits: Float[Array, "*s k"], values: Int[Array, "*s"]) -> Float[Array, "*s"]:
    """Returns log softmax(logits)[value] of every value.

    Args:
        logits: logits of K values.
        values: values in 0..K - 1.

    Returns:
        Nats, float32.
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return jnp.take_along_axis(log_probabilities, values[..., None], axis=-1)[..., 0]


def bits_per_dim(
    logits: Float[Array, "b h w c k"], values: Int[Array, "b h w c"]
) -> Float[Array, "b"]:
    """Returns the mean of -log2 softmax(logits)[value] over each map's values.

    Args:
        logits: logits of K values at each place and channel.
        values: values in 0..K - 1.

    Returns:
        Bits per dimension of each map; log2 K for a uniform guess.
    """
    return -jnp.mean(log_likelihood(logits, values), axis=(1, 2, 3)) / math.log(2)


def count_values(
    counts: Float[Array, "h w c k"], values: Int[Array, "b h w c"]
) -> Float[Array, "h w c k"]:
    """Returns `counts` with the values of a batch of maps added.

    Args:
        counts: how often each of K values occurs at each place and channel.
        values: values in 0..K - 1.
    """
    return counts.at[(*_places(values), values)].add(1.0)


def site_bits_per_dim(
    counts: Float[Array, "h w c k"], values: Int[Array, "b h w c"]
) -> Float[Array, "b"]:
    """Returns the bits per dimension of a model without context: each place has its frequencies.

    A place's frequencies are mixed with those of all places of the channel and a little of the
    uniform distribution, so that no value costs infinitely many bits. The mixture that suits
    `values` best is chosen in hindsight, in favour of this baseline.

    Args:
        counts: how often each of K values occurs at each place and channel; only the frequencies
            matter.
        values: values in 0..K - 1.

    Returns:
        Bits per dimension of each map.
    """
    places = _places(values)
    own = _shares(counts)[(*places, values)]
    everywhere = _shares(jnp.sum(counts, axis=(0, 1)))[places[2], values]
    everywhere = (1 - _UNIFORM) * everywhere + _UNIFORM / counts.shape[-1]
    costs = [
        -jnp.mean(jnp.log2(share * own + (1 - share) * everywhere), axis=(1, 2, 3))
        for share in SHARES
    ]
    costs = jnp.stack(costs)
    return costs[jnp.argmin(jnp.mean(costs, axis=1))]


def _places(values: Int[Array, "b h w c"]) -> list[Int[Array, "b h w c"]]:
    """Returns row, column and channel of every value."""
    return [jax.lax.broadcasted_iota(jnp.int32, values.shape, axis) for axis in (1, 2, 3)]


def _shares(counts: Float[Array, "*s k"]) -> Float[Array, "*s k"]:
    totals = jnp.sum(counts, axis=-1, keepdims=True)
    return jnp.where(totals > 0, counts / jnp.maximum(totals, 1.0), 1 / counts.shape[-1])
