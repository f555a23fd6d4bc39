"""Camera noise: Gaussian noise, and Poisson noise of light that arrives in photons.

Layout: images [b, h, w, 3] in [0, 1] and standard normal deviates of the same shape, float32; one
parameter per image. Both kinds are functions of those deviates, so the caller draws.
"""

import jax.numpy as jnp
from jax.scipy.special import ndtr
from jaxtyping import Array, Bool, Float

from codeformer_jax.ops.jitter import luma

# Photons of white at a strength of 1.
PHOTONS = 256.0
_SMALL_RATE = 4.0
_TERMS = 21  # More events have a probability below 1e-9 at the rate above.


def gaussian_noise(
    normal: Float[Array, "b h w 3"], sigma: Float[Array, "b"], gray: Bool[Array, "b"]
) -> Float[Array, "b h w 3"]:
    """Returns Gaussian noise to add.

    Args:
        normal: standard normal deviates.
        sigma: standard deviation in [0, 1] units.
        gray: whether all channels get the same noise.
    """
    return sigma[:, None, None, None] * _shared(normal, gray)


def poisson_noise(
    images: Float[Array, "b h w 3"],
    normal: Float[Array, "b h w 3"],
    strength: Float[Array, "b"],
    gray: Bool[Array, "b"],
) -> Float[Array, "b h w 3"]:
    """Returns Poisson noise to add, of deviation strength * sqrt(x / PHOTONS) at value x.

    Source: Real-ESRGAN (arXiv 2107.10833, section 3.3).

    Args:
        images: [b, h, w, 3] in [0, 1].
        normal: standard normal deviates.
        strength: factor of the noise.
        gray: whether the luma is counted and all channels get the same noise.
    """
    light = jnp.where(gray[:, None, None, None], luma(images), images)
    counted = poisson_quantile(_shared(normal, gray), PHOTONS * light) / PHOTONS
    return strength[:, None, None, None] * (counted - light)


def poisson_quantile(
    normal: Float[Array, "*shape"], rate: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Returns Poisson counts by inversion of standard normal deviates.

    Rates below 4 sum the distribution. Higher rates use the expansion of Giles, "Algorithm 955"
    (ACM Transactions on Mathematical Software, 2016), which is off by one count in 0.2 % of the
    cases near 4 and less often above.

    Args:
        normal: standard normal deviates.
        rate: expected counts, from 0.
    """
    root = jnp.sqrt(jnp.maximum(rate, _SMALL_RATE))
    square = normal**2
    expanded = rate + root * normal + (2.0 + square) / 6.0
    expanded = expanded - normal * (2.0 + square) / (72.0 * root)
    expanded = expanded + (square * (3.0 * square + 7.0) - 16.0) / (810.0 * root**2)
    uniform = ndtr(normal)
    term = jnp.exp(-jnp.minimum(rate, _SMALL_RATE))
    below, count = term, jnp.zeros_like(rate)
    for events in range(1, _TERMS + 1):
        count = count + (uniform > below).astype(jnp.float32)
        term = term * rate / events
        below = below + term
    return jnp.where(rate < _SMALL_RATE, count, jnp.maximum(jnp.floor(expanded), 0.0))


def _shared(normal: Array, gray: Array) -> Array:
    return jnp.where(gray[:, None, None, None], normal[..., :1], normal)
