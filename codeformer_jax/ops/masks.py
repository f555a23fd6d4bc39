"""Random brush strokes and their masks.

Layout: masks [b, h, w, 1] of 0 and 1, float32; points (x, y) in pixels, x to the right, y down,
pixel centres at integers. A stroke is a chain of straight segments with round joints and ends.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def random_stroke(
    key: Key[Array, ""],
    vertices: Float[Array, ""],
    length: Float[Array, "2"],
    turn: Float[Array, "2"],
    size: int,
    capacity: int,
) -> Float[Array, "{capacity} 2"]:
    """Returns the corners of one stroke that zigzags over a square image.

    Start and heading are uniform. Each segment leaves the heading by an angle to alternating sides.
    Source: free-form masks of Yu et al. (arXiv 1806.03589, algorithm 1), with a random heading in
    place of their upright one.

    Args:
        key: threefry key.
        vertices: number of corners, an integer up to `capacity`; the last one is repeated.
        length: [2] lowest and highest length of a segment in pixels.
        turn: [2] lowest and highest angle in radians.
        size: side of the image, within which corners are clipped.
        capacity: static number of corners.
    """
    keys = jax.random.split(key, 4)
    start = jax.random.uniform(keys[0], (2,), maxval=size - 1)
    heading = jax.random.uniform(keys[1], (), maxval=2 * jnp.pi)
    turns = jax.random.uniform(keys[2], (capacity - 1,), minval=turn[0], maxval=turn[1])
    lengths = jax.random.uniform(keys[3], (capacity - 1,), minval=length[0], maxval=length[1])
    piece = jnp.arange(capacity - 1, dtype=jnp.float32)
    angles = heading + jnp.where(piece % 2 == 0, turns, -turns)
    lengths = jnp.where(piece + 1 < vertices, lengths, 0.0)
    steps = lengths[:, None] * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)

    def go(corner: Array, step: Array) -> tuple[Array, Array]:
        corner = jnp.clip(corner + step, 0.0, size - 1.0)
        return corner, corner

    _, corners = jax.lax.scan(go, start, steps)
    return jnp.concatenate([start[None], corners])


def stroke_masks(
    points: Float[Array, "b strokes corners 2"],
    width: Float[Array, "b strokes"],
    height_width: tuple[int, int],
) -> Float[Array, "b h w 1"]:
    """Returns masks that are 1 where a pixel's centre lies within half a width of a stroke.

    Args:
        points: corners of the strokes in order; a stroke that repeats its last corner ends there.
        width: width in pixels; a negative width paints nothing.
        height_width: sides of the masks.
    """
    y = jnp.arange(height_width[0], dtype=jnp.float32)[None, :, None]
    x = jnp.arange(height_width[1], dtype=jnp.float32)[None, None, :]
    radius = jnp.where(width < 0, -1.0, (width / 2) ** 2)

    # A loop over strokes: all segments at once would need one mask for each.
    def paint(painted: Array, stroke: tuple[Array, Array]) -> tuple[Array, None]:
        corners, limit = stroke
        for piece in range(points.shape[2] - 1):
            distance = _squared_distance(x, y, corners[:, piece], corners[:, piece + 1])
            painted = painted | (distance <= limit[:, None, None])
        return painted, None

    nothing = jnp.zeros((points.shape[0], *height_width), bool)
    strokes = (jnp.swapaxes(points, 0, 1), jnp.swapaxes(radius, 0, 1))
    painted, _ = jax.lax.scan(paint, nothing, strokes)
    return painted[..., None].astype(jnp.float32)


def _squared_distance(x: Array, y: Array, start: Array, end: Array) -> Array:
    """Returns squared distances [b, h, w] of pixels from segments between corners [b, 2]."""
    start, step = start[:, None, None, :], (end - start)[:, None, None, :]
    square = jnp.maximum(jnp.sum(step**2, axis=-1), 1e-12)
    across, down = x - start[..., 0], y - start[..., 1]
    along = jnp.clip((across * step[..., 0] + down * step[..., 1]) / square, 0.0, 1.0)
    return (across - along * step[..., 0]) ** 2 + (down - along * step[..., 1]) ** 2
