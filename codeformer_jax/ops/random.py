"""Random keys, and random numbers that belong to a place in an image.

Keys are threefry keys, whatever `jax_default_prng_impl` says. Under `jax.vmap` other
implementations draw for a whole batch at once, so an image's draw would depend on the batch.

Layout of numbers: [b, h, w, c] float32, one key per image. The number at (y, x, c) follows from the
key and that place alone, so an image gets the same numbers on any canvas. `jax.random.normal`
depends on the size of the whole array, and takes three times as long for a batch on a CPU.
"""

import math

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from codeformer_jax.ops.fusion import materialized

THREEFRY = "threefry2x32"


def make_key(seed: ArrayLike) -> Key[Array, ""]:
    """Returns the threefry key of a seed, whatever JAX's default implementation is."""
    return jax.random.key(seed, impl=THREEFRY)


def threefry_keys(keys: Key[Array, "*b"]) -> Key[Array, "*b"]:
    """Returns keys of any implementation as threefry keys; threefry keys stay unchanged.

    Each result follows from its own key alone, also under `jax.vmap`.
    """
    if str(jax.random.key_impl(keys)) == THREEFRY:
        return keys
    words = jax.random.key_data(keys)

    def fold(words: Array) -> Array:
        return threefry_2x32(words[:2], words[2:])

    folded = jax.vmap(fold)(words.reshape(-1, words.shape[-1]))
    return jax.random.wrap_key_data(folded.reshape(*keys.shape, 2), impl=THREEFRY)


def rbg_keys(keys: Key[Array, "*b"]) -> Key[Array, "*b"]:
    """Returns threefry keys as 'rbg' keys, which draw large arrays faster on TPUs.

    Use them only for draws that may depend on the batch, the platform and the version of XLA.
    """
    words = jax.random.key_data(keys)
    return jax.random.wrap_key_data(jnp.concatenate([words, words], axis=-1), impl="rbg")


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
