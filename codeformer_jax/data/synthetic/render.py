"""Picture of an identity: the layers, back to front."""

from typing import SupportsIndex

import numpy as np
from jaxtyping import UInt8

from codeformer_jax.data.synthetic import accessories, features, hair, scene, skin
from codeformer_jax.data.synthetic.identity import draw_face
from codeformer_jax.data.synthetic.shapes import Grid, cover, darken

SMALLEST = 16

# Where FFHQ's alignment puts the middle between the eyes.
EYES_AT = (0.5, 0.47)


def render_face(identity: SupportsIndex, size: SupportsIndex) -> UInt8[np.ndarray, "size size 3"]:
    """Draws the face of an identity; every call returns the same bytes.

    Args:
        identity: 0 or more; it fixes the look completely.
        size: side in pixels, at least 16; it fixes the sampling only.

    Returns:
        sRGB uint8 [size, size, 3].

    Raises:
        ValueError: a negative identity, or a size that is too small or not an integer.
    """
    check_size(size)
    if not is_whole(identity) or identity < 0:
        raise ValueError(f"identity is {identity!r}; give an integer of 0 or more")
    size = int(size)
    face = draw_face(int(identity))
    planes = np.empty((3, size, size), np.float32)
    scene.paint_background(planes, Grid.make(size, (0.5, 0.5)), face.background, face.light)
    upright = Grid.make(size, EYES_AT)
    grid = Grid.make(size, EYES_AT, face.pose.roll)
    head = skin.map_head(grid, face)
    locks = hair.map_hair(grid, face)
    if locks is not None:
        hair.paint_back_hair(planes, grid, locks)
    scene.paint_body(planes, upright, face)
    if not face.hair.length:
        skin.paint_ears(planes, grid, face)
    skin.paint_skin(planes, grid, face, head)
    features.paint_eyes(planes, grid, face)
    features.paint_nose(planes, grid, face)
    accessories.paint_beard(planes, grid, face, head)
    features.paint_mouth(planes, grid, face)
    if locks is not None:
        shadow = hair.shade_under_hair(head, locks, grid, face)
        darken(planes, head.window, shadow * cover(head.distance, grid.px))
    features.paint_brows(planes, grid, face)
    accessories.paint_glasses(planes, grid, face)
    if locks is not None:
        hair.paint_front_hair(planes, grid, locks, face)
    picture = np.clip(planes * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(picture.transpose(1, 2, 0))


def check_size(size: object) -> None:
    """Raises ValueError unless `size` is an integer of at least SMALLEST."""
    if not is_whole(size) or size < SMALLEST:
        raise ValueError(f"size is {size!r}; give the side in pixels, an integer >= {SMALLEST}")


def is_whole(value: object) -> bool:
    """Returns whether a value is an integer, of Python or NumPy; True and False are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
