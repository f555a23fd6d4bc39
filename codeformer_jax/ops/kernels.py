"""Real-ESRGAN's kernels, one per image: generalised Gaussians, plateaus and sinc filters.

Layout: [b, size, size] float32, each summing to 1. A kernel of radius r fills the middle 2 r + 1
taps of each side and is 0 beyond. Source: arXiv 2107.10833, sections 3.1 and 3.5.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

# Enough points for arguments up to 60: over a whole period the trapezoid rule converges
# geometrically once there are more points than oscillations.
_ANGLES = (np.arange(96) + 0.5) * np.pi / 96


def shaped_kernels(
    sigma_x: Float[Array, "b"],
    sigma_y: Float[Array, "b"],
    theta: Float[Array, "b"],
    beta: Float[Array, "b"],
    plateau: Bool[Array, "b"],
    radius: Int[Array, "b"],
    *,
    size: int,
) -> Float[Array, "b size size"]:
    """Returns kernels exp(-d^beta / 2), or 1 / (1 + d^beta) for plateaus.

    d = x' S^-1 x is the elliptic distance; beta = 1 without plateau is the Gaussian.

    Args:
        sigma_x: standard deviation in pixels along (cos theta, sin theta).
        sigma_y: standard deviation in pixels across that direction.
        theta: angle in radians.
        beta: exponent, above 0.
        plateau: whether a kernel has the plateau shape.
        radius: half side of the non-zero taps, up to size // 2.
        size: side of the kernels, odd.

    Raises:
        ValueError: for an even size.
    """
    x, y = _axes(size)
    cos, sin = jnp.cos(theta)[:, None, None], jnp.sin(theta)[:, None, None]
    along = (cos * x + sin * y) / sigma_x[:, None, None]
    across = (cos * y - sin * x) / sigma_y[:, None, None]
    power = (along**2 + across**2) ** beta[:, None, None]
    values = jnp.where(plateau[:, None, None], 1.0 / (1.0 + power), jnp.exp(-0.5 * power))
    return _normalised(values, radius)


def sinc_kernels(
    cutoff: Float[Array, "b"], radius: Int[Array, "b"], *, size: int
) -> Float[Array, "b size size"]:
    """Returns circular low-pass kernels w / (2 pi r) J1(w r).

    The frequencies that they cut off return as rings: the halos of sharpened, recompressed images.

    Args:
        cutoff: w in radians per pixel, up to pi.
        radius: half side of the non-zero taps, up to size // 2.
        size: side of the kernels, odd.

    Raises:
        ValueError: for an even size.
    """
    x, y = _axes(size)
    distance = np.sqrt(x**2 + y**2)
    w = cutoff[:, None, None]
    away = w / (2 * np.pi * np.where(distance > 0, distance, 1.0)) * bessel_j1(w * distance)
    middle = w**2 / (4 * np.pi)
    return _normalised(jnp.where(distance > 0, away, middle), radius)


def identity_kernels(batch: int, size: int) -> Float[Array, "batch size size"]:
    """Returns `batch` kernels of odd side `size` that change nothing."""
    x, y = _axes(size)
    middle = ((x == 0) & (y == 0)).astype(np.float32)
    return jnp.broadcast_to(middle, (batch, size, size))


def bessel_j1(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns the Bessel function J1 for |x| up to 60, within 2e-6."""
    angles = _ANGLES.reshape((1,) * x.ndim + (-1,)).astype(np.float32)
    return jnp.mean(jnp.cos(angles - x[..., None] * np.sin(angles)), axis=-1)


def _axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    if size < 1 or size % 2 == 0:
        raise ValueError(f"Kernel size is {size}: expected an odd number of pixels.")
    axis = np.arange(size, dtype=np.float32) - size // 2
    return axis[None, None, :], axis[None, :, None]


def _normalised(values: Array, radius: Array) -> Array:
    x, y = _axes(values.shape[1])
    inside = np.maximum(np.abs(x), np.abs(y)).astype(np.int32) <= radius[:, None, None]
    values = jnp.where(inside, values, 0.0)
    return values / jnp.sum(values, axis=(1, 2), keepdims=True)
