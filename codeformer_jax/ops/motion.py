"""Motion blur kernels: the path of a shaking camera during one exposure.

Layout: paths [steps, 2] of (x, y) in pixels, kernels [size, size] that sum to 1; float32.
Model: Boracchi and Foi, "Modeling the Performance of Image Restoration from Motion Blur" (IEEE
Transactions on Image Processing, 2012). A particle of constant speed changes direction at random,
is pulled back towards the start and sometimes reverses. The constants are this project's.
"""

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float, Key

STEPS = 128
# Upper ends of uniform draws from 0, one for each path.
TREMOR = 3.0  # Radians that the direction wanders over the whole path.
PULL = 8.0  # Radians per path, at a distance of the whole length.
JERKS = 1.0  # Expected number of abrupt turns.


def motion_path(key: Key[Array, ""], length: Float[Array, ""]) -> Float[Array, "steps 2"]:
    """Returns a random path with its mean at (0, 0).

    Args:
        key: threefry key.
        length: length of the path in pixels.
    """
    keys = jax.random.split(key, 5)
    tremor, pull, jerks = jax.random.uniform(keys[0], (3,)) * jnp.asarray([TREMOR, PULL, JERKS])
    angle = jax.random.uniform(keys[1], (), maxval=2 * jnp.pi)
    trembles = jax.random.normal(keys[2], (STEPS - 1, 2)) * tremor / jnp.sqrt(STEPS - 1.0)
    jerked = jax.random.uniform(keys[3], (STEPS - 1,)) * (STEPS - 1) < jerks
    turned = jax.random.uniform(keys[4], (STEPS - 1,), minval=-0.5, maxval=0.5) + jnp.pi

    def go(carry: tuple[Array, Array], step: tuple[Array, Array, Array]):
        place, direction = carry
        tremble, jerk, turn = step
        cos, sin = jnp.cos(turn), jnp.sin(turn)
        x, y = direction[0], direction[1]
        thrown = jnp.stack([cos * x - sin * y, sin * x + cos * y])
        direction = jnp.where(jerk, thrown, direction) + tremble - pull / (STEPS - 1) * place
        direction = direction / jnp.maximum(jnp.linalg.norm(direction), 1e-6)
        place = place + direction / (STEPS - 1)
        return (place, direction), place

    start = jnp.zeros(2), jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    _, places = jax.lax.scan(go, start, (trembles, jerked, turned))
    path = jnp.concatenate([jnp.zeros((1, 2)), places])
    return length * (path - jnp.mean(path, axis=0, keepdims=True))


def path_kernel(path: Float[Array, "steps 2"], *, size: int = 41) -> Float[Array, "size size"]:
    """Returns the fraction of the exposure that the path spends at each pixel, bilinearly spread.

    Args:
        path: [steps, 2]; shrunk until it fits the kernel. A path in one point is the identity.
        size: side of the kernel, odd.

    Raises:
        ValueError: for an even size.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"Kernel size is {size}: expected an odd number of pixels.")
    half = size // 2
    path = path * jnp.minimum(1.0, half / jnp.maximum(jnp.max(jnp.abs(path)), 1e-6))
    axis = jnp.arange(size, dtype=jnp.float32)[None, :] - half
    columns, rows = (jnp.maximum(0.0, 1.0 - jnp.abs(axis - path[:, i : i + 1])) for i in (0, 1))
    return jnp.matmul(rows.T, columns, precision=Precision.HIGHEST) / path.shape[0]
