"""Random keys: threefry keys, whatever `jax_default_prng_impl` says.

Under `jax.vmap` other implementations draw for a whole batch at once, so an image's draw would
depend on the batch.
"""

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32
from jax.typing import ArrayLike
from jaxtyping import Array, Key

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
