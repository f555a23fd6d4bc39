"""What maps of codes or pixels cost under a distribution, in bits per dimension.

A dimension is one value of a map: of a map of codes a site, of an RGB picture a channel of a pixel.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Shares of a place's own statistics against those of all places; the best one counts.
SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.97, 1.0 - 1e-3)
_UNIFORM = 0.01


def log_likelihood(logits: Float[Array, "*s k"], values: Int[Array, "*s"]) -> Float[Array, "*s"]:
    """log softmax(logits)[value] of every value, nats, float32."""
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return jnp.take_along_axis(log_probabilities, values[..., None], axis=-1)[..., 0]


def bits_per_dim(
    logits: Float[Array, "b h w c k"], values: Int[Array, "b h w c"]
) -> Float[Array, "b"]:
    """Mean of -log2 softmax(logits)[value] over each map's values; log2 K for a uniform guess."""
    return -jnp.mean(log_likelihood(logits, values), axis=(1, 2, 3)) / math.log(2)


def count_values(
    counts: Float[Array, "h w c k"], values: Int[Array, "b h w c"]
) -> Float[Array, "h w c k"]:
    """`counts` of every value at every place, with those of a batch of maps added."""
    return counts.at[(*_places(values), values)].add(1.0)


def site_bits_per_dim(
    counts: Float[Array, "h w c k"], values: Int[Array, "b h w c"]
) -> Float[Array, "b"]:
    """Bits per dimension where every value is drawn by itself, from its own place's frequencies.

    The best that a model without context can do. A place's frequencies are mixed with those of all
    places of the channel and a little of the uniform distribution, so that no value costs
    infinitely much. Of several mixtures the one that suits `values` best is taken: it is chosen in
    hindsight, in favour of this baseline. Maps that were counted many times weigh no more than
    ones that were counted once.
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
    """Row, column and channel of every value."""
    return [jax.lax.broadcasted_iota(jnp.int32, values.shape, axis) for axis in (1, 2, 3)]


def _shares(counts: Float[Array, "*s k"]) -> Float[Array, "*s k"]:
    totals = jnp.sum(counts, axis=-1, keepdims=True)
    return jnp.where(totals > 0, counts / jnp.maximum(totals, 1.0), 1 / counts.shape[-1])
