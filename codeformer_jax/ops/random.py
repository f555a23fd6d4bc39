"""Random numbers that belong to a place in an image.

Layout of numbers: [b, h, w, c] float32, one key per image. The number at (y, x, c) follows from the
key and that place alone, so an image gets the same numbers on any canvas. `jax.random.normal`
depends on the size of the whole array, and takes three times as long for a batch on a CPU.
"""

import math

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Float, Key

from codeformer_jax.ops.fusion import materialized
from codeformer_jax.system.keys import threefry_keys


def standard_normal(
    keys: Key[Array, "b"], height: int, width: int, channels: int
) -> Float[Array, "b {height} {width} {channels}"]:
    """Returns standard normal deviates within +-5.5, each from its key and place.

    Args:
        keys: one typed key per image.
        height, width, channels: shape of an image.
    """
    bits = jax.vmap(lambda key: _bits(key, height, width * channels))(threefry_keys(keys))
    # The centres of 2**24 equal parts of (-1, 1) are symmetric and exclude the ends.
    uniform = (bits >> 8).astype(jnp.float32) * 2.0**-23 + (2.0**-24 - 1.0)
    normal = math.sqrt(2) * jax.lax.erf_inv(uniform)
    return materialized(normal.reshape(-1, height, width, channels))


def _bits(key: Key[Array, ""], rows: int, columns: int) -> Array:
    """Returns uint32 [rows, columns]; a block of the cipher makes two, one above the other."""
    pairs = -(-rows // 2)
    shape = (pairs, columns)
    pair = jax.lax.broadcasted_iota(jnp.uint32, shape, 0)
    column = jax.lax.broadcasted_iota(jnp.uint32, shape, 1)
    blocks = jnp.stack([pair, column])
    words = threefry_2x32(jax.random.bits(key, (2,), jnp.uint32), blocks)
    return jnp.swapaxes(words, 0, 1).reshape(2 * pairs, columns)[:rows]
