"""What maps of codes or pixels cost under a distribution, in bits per dimension.

A dimension is one value of a map: of a map of codes a site, of an RGB picture a channel of a pixel.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def bits_per_dim(
    logits: Float[Array, "b h w c k"], values: Int[Array, "b h w c"]
) -> Float[Array, "b"]:
    """Mean of -log2 softmax(logits)[value] over each map's values; log2 K for a uniform guess."""
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    chosen = jnp.take_along_axis(log_probabilities, values[..., None], axis=-1)
    return -jnp.mean(chosen, axis=(1, 2, 3, 4)) / math.log(2)


def count_values(
    counts: Float[Array, "h w c k"], values: Int[Array, "b h w c"]
) -> Float[Array, "h w c k"]:
    """`counts` of every value at every place, with those of a batch of maps added."""
    h, w, c = (jnp.arange(side) for side in counts.shape[:3])
    places = (h[None, :, None, None], w[None, None, :, None], c[None, None, None, :])
    return counts.at[(*jnp.broadcast_arrays(*places, values)[:3], values)].add(1.0)


def site_bits_per_dim(
    counts: Float[Array, "h w c k"], values: Int[Array, "b h w c"], *, weight: float = 0.9
) -> Float[Array, "b"]:
    """Bits per dimension where every value is drawn by itself, from its own place's frequencies.

    The best that a model without context can do. Values that a place has never had would cost
    infinitely much: its frequencies get `weight`, those of all places of the channel together the
    rest, of which a hundredth is uniform.
    """
    own = _shares(counts)
    everywhere = _shares(jnp.sum(counts, axis=(0, 1), keepdims=True))
    rest = 0.99 * everywhere + 0.01 / counts.shape[-1]
    logs = jnp.log(weight * own + (1 - weight) * rest)
    chosen = jnp.take_along_axis(
        jnp.broadcast_to(logs[None], (values.shape[0], *logs.shape)), values[..., None], axis=-1
    )
    return -jnp.mean(chosen, axis=(1, 2, 3, 4)) / math.log(2)


def _shares(counts: Float[Array, "h w c k"]) -> Float[Array, "h w c k"]:
    totals = jnp.sum(counts, axis=-1, keepdims=True)
    return jnp.where(totals > 0, counts / jnp.maximum(totals, 1.0), 1 / counts.shape[-1])
