"""One code from its logits: temperature, top-k, top-p, and noise by sample and site.

By the Gumbel trick the argmax of logits plus noise is a sample from their softmax. The same logits
and keys therefore give the same codes in every sampling loop.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Int32, Key

from codeformer_jax.system.keys import threefry_keys

_EXCLUDED = -jnp.inf
_COLDEST = 1e-6


@flax.struct.dataclass
class Sampler:
    """Settings that turn logits into a code.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest code. Traced.
        top_p: keeps the likeliest codes whose probabilities add up to it, (0, 1]; None keeps all.
            Traced.
        top_k: keeps this many of the likeliest codes, and ties of the last one; None keeps all.
            Applied before `top_p`.
        codebook_size: keeps the first codes of a vocabulary that also holds condition tokens; None
            keeps all.
    """

    temperature: ArrayLike = 1.0
    top_p: ArrayLike | None = None
    top_k: int | None = flax.struct.field(pytree_node=False, default=None)
    codebook_size: int | None = flax.struct.field(pytree_node=False, default=None)

    def check(self, vocabulary: int) -> None:
        """Checks the settings against a vocabulary.

        Args:
            vocabulary: number of logits.

        Raises:
            ValueError: if a setting is out of range.
        """
        codes = min(vocabulary, self.codebook_size or vocabulary)
        if not 0 <= float(self.temperature) < float("inf"):
            raise ValueError(
                f"temperature is {self.temperature}; expected 0 (the likeliest code) or more"
            )
        if self.top_p is not None and not 0 < float(self.top_p) <= 1:
            raise ValueError(f"top_p is {self.top_p}; expected more than 0 and at most 1")
        if self.top_k is not None and not 1 <= self.top_k <= codes:
            raise ValueError(f"top_k is {self.top_k}; expected 1 to {codes}, the number of codes")


def filter_logits(logits: Float[Array, "b k"], sampler: Sampler) -> Float[Array, "b k"]:
    """Sets the logits of codes that the sampler excludes to minus infinity.

    Args:
        logits: [b, k].
        sampler: the settings.

    Returns:
        The logits [b, k]; those of kept codes are unchanged.
    """
    if sampler.codebook_size is not None:
        first = jnp.arange(logits.shape[-1]) < sampler.codebook_size
        logits = jnp.where(first, logits, _EXCLUDED)
    if sampler.top_k is not None:
        least = jax.lax.top_k(logits, sampler.top_k)[0][:, -1:]
        logits = jnp.where(logits < least, _EXCLUDED, logits)
    if sampler.top_p is None:
        return logits
    descending = -jnp.sort(-logits, axis=-1)
    scale = jnp.maximum(jnp.asarray(sampler.temperature, jnp.float32), _COLDEST)
    probabilities = jax.nn.softmax(descending / scale, axis=-1)
    # A code is kept while those before it do not reach the sum: the likeliest one always is.
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    kept = before < jnp.asarray(sampler.top_p, jnp.float32)
    least = jnp.min(jnp.where(kept, descending, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits < least, _EXCLUDED, logits)


def sample_codes(
    logits: Float[Array, "b k"], keys: Key[Array, "b"], site: Int[Array, ""], sampler: Sampler
) -> Int[Array, "b"]:
    """Samples a code for each row, independently of the other rows in the batch.

    Args:
        logits: [b, k].
        keys: one per sample, the same at all its sites.
        site: index in the whole map, row-major.
        sampler: temperature, top-k and top-p.

    Returns:
        Codes [b], int32.
    """

    def noise(key):
        return jax.random.gumbel(jax.random.fold_in(key, site), logits.shape[1:], jnp.float32)

    temperature = jnp.asarray(sampler.temperature, jnp.float32)
    noisy = filter_logits(logits, sampler) + temperature * jax.vmap(noise)(threefry_keys(keys))
    return jnp.argmax(noisy, axis=-1).astype(jnp.int32)


def check_known(
    known: Any, known_mask: Any, shape: tuple[int, ...], levels: int
) -> tuple[Int32[np.ndarray, "..."], Bool[np.ndarray, "h w"]]:
    """Checks known values and fills them with zeros at the sites to sample.

    Args:
        known: integer maps, or None if nothing is known.
        known_mask: bool [h, w], True at the sites that keep their known values; None with `known`.
        shape: expected shape of the maps, [b, h, w] or [b, h, w, c].
        levels: known values are 0 to levels - 1.

    Returns:
        Maps of `shape` and a mask [h, w]; all False if nothing is known.

    Raises:
        ValueError: if one comes without the other, a shape differs, or a value is out of range.
    """
    if (known is None) != (known_mask is None):
        raise ValueError("known and known_mask go together: give both, or neither")
    if known is None:
        return np.zeros(shape, np.int32), np.zeros(shape[1:3], bool)
    known, known_mask = np.asarray(known), np.asarray(known_mask)
    if known.shape != shape or known_mask.shape != shape[1:3] or known_mask.dtype != bool:
        raise ValueError(
            f"known has shape {list(known.shape)} and known_mask is {known_mask.dtype} "
            f"{list(known_mask.shape)}; expected {list(shape)} and bool {list(shape[1:3])}"
        )
    values = known[:, known_mask]
    if values.size and not 0 <= values.min() <= values.max() < levels:
        raise ValueError(
            f"known holds values from {values.min()} to {values.max()}; the network has 0 to "
            f"{levels - 1}"
        )
    filled = np.zeros(shape, np.int32)
    filled[:, known_mask] = values
    return filled, known_mask
