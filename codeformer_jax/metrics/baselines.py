"""What a prior over maps of codes has to beat: codes of each site on their own."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Shares of a site's own statistics against those of all sites; the best one counts.
SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.97, 1.0 - 1e-3)
_UNIFORM = 0.02


def count_sites(codes: Int[Array, "b n"], codebook_size: int) -> Float[Array, "n k"]:
    """How often each code stands at each site, [n, K] float32."""
    sites = jnp.broadcast_to(jnp.arange(codes.shape[1]), codes.shape)
    counts = jnp.zeros((codes.shape[1], codebook_size), jnp.float32)
    return counts.at[sites, codes].add(1.0)


def site_nll(counts: Float[Array, "n k"], codes: Int[Array, "b n"]) -> Float[Array, "b"]:
    """Nats per code of maps, each site independent of the others, by the counts of training maps.

    A site's frequencies are mixed with those of all sites and a little of the uniform
    distribution. Of several mixtures the one that suits `codes` best is taken: it is chosen in
    hindsight, in favour of this baseline. Maps that were counted many times weigh no more than ones
    that were counted once.
    """
    k = counts.shape[1]
    everywhere = counts.sum(0) / jnp.maximum(counts.sum(), 1.0)
    everywhere = (1 - _UNIFORM) * everywhere + _UNIFORM / k
    everywhere = jnp.where(counts.sum() > 0, everywhere, 1 / k)
    own = counts / jnp.maximum(counts.sum(1, keepdims=True), 1.0)
    sites = jnp.arange(codes.shape[1])[None, :]
    rows = []
    for share in SHARES:
        probabilities = share * own + (1 - share) * everywhere[None, :]
        rows.append(-jnp.log(probabilities[sites, codes]).mean(1))
    nlls = jnp.stack(rows)
    return nlls[jnp.argmin(nlls.mean(1))]
