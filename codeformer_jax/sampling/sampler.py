"""One code from its logits: temperature, top-k, top-p, and noise by sample and site.

By the Gumbel trick the argmax of logits plus noise is a draw from their softmax, so that whoever
has the same logits and keys draws the same codes.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from codeformer_jax.ops.random import threefry_keys

_EXCLUDED = -jnp.inf
_COLDEST = 1e-6


@flax.struct.dataclass
class Draw:
    """How codes are drawn.

    Attributes:
        temperature: the logits are divided by it; 0 takes the likeliest code. Traced.
        top_p: only the likeliest codes whose probabilities reach this sum, (0, 1]; None: all.
            Traced.
        top_k: only so many likeliest codes (ties of the last are kept); None: all. It is applied
            before `top_p`.
        codes: only so many first ones, where the vocabulary has conditions besides; None: all.
    """

    temperature: ArrayLike = 1.0
    top_p: ArrayLike | None = None
    top_k: int | None = flax.struct.field(pytree_node=False, default=None)
    codes: int | None = flax.struct.field(pytree_node=False, default=None)

    def check(self, vocabulary: int) -> None:
        """Raises ValueError where a value cannot be meant, for that number of codes."""
        vocabulary = min(vocabulary, self.codes or vocabulary)
        if not 0 <= float(self.temperature) < float("inf"):
            raise ValueError(
                f"temperature is {self.temperature}; expected 0 (the likeliest code) or more"
            )
        if self.top_p is not None and not 0 < float(self.top_p) <= 1:
            raise ValueError(f"top_p is {self.top_p}; expected more than 0 and at most 1")
        if self.top_k is not None and not 1 <= self.top_k <= vocabulary:
            raise ValueError(
                f"top_k is {self.top_k}; expected 1 to {vocabulary}, the number of codes"
            )


def filter_logits(logits: Float[Array, "b k"], how: Draw) -> Float[Array, "b k"]:
    """`logits`, minus infinity where `how` excludes a code."""
    if how.codes is not None:
        logits = jnp.where(jnp.arange(logits.shape[-1]) < how.codes, logits, _EXCLUDED)
    if how.top_k is not None:
        least = jax.lax.top_k(logits, how.top_k)[0][:, -1:]
        logits = jnp.where(logits < least, _EXCLUDED, logits)
    if how.top_p is None:
        return logits
    descending = -jnp.sort(-logits, axis=-1)
    scale = jnp.maximum(jnp.asarray(how.temperature, jnp.float32), _COLDEST)
    probabilities = jax.nn.softmax(descending / scale, axis=-1)
    # A code stays while those before it do not reach the sum: the likeliest one always does.
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    kept = before < jnp.asarray(how.top_p, jnp.float32)
    least = jnp.min(jnp.where(kept, descending, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits < least, _EXCLUDED, logits)


def draw_codes(
    logits: Float[Array, "b k"], keys: Key[Array, "b"], site: Int[Array, ""], how: Draw
) -> Int[Array, "b"]:
    """A code for each row, by the row's key and the site: not by what else is in the batch.

    Args:
        keys: one per sample, the same at all its sites.
        site: place in the whole map, row-major.
    """

    def noise(key):
        return jax.random.gumbel(jax.random.fold_in(key, site), logits.shape[1:], jnp.float32)

    temperature = jnp.asarray(how.temperature, jnp.float32)
    noisy = filter_logits(logits, how) + temperature * jax.vmap(noise)(threefry_keys(keys))
    return jnp.argmax(noisy, axis=-1).astype(jnp.int32)
