"""Picture of an identity: the layers, back to front."""

import operator
from typing import SupportsIndex

import numpy as np
from jaxtyping import UInt8

from codeformer_jax.data.synthetic import accessories, features, hair, scene, skin
from codeformer_jax.data.synthetic.identity import Look, draw_face
from codeformer_jax.data.synthetic.shapes import Canvas, cover

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
        ValueError: a negative identity, or a size that is too small.
    """
    identity, size = operator.index(identity), operator.index(size)
    check_size(size)
    if identity < 0:
        raise ValueError(f"identity is {identity}; give an integer of 0 or more")
    face = draw_face(identity)
    planes = np.empty((3, size, size), np.float32)
    scene.paint_background(Canvas.make(planes, (0.5, 0.5)), face.background, face.light)
    canvas = Canvas.make(planes, EYES_AT, face.pose.roll)
    paint_person(Canvas.make(planes, EYES_AT), canvas, face)
    return canvas.picture()


def paint_person(upright: Canvas, canvas: Canvas, face: Look) -> None:
    """Paints head, hair and body over a picture.

    Args:
        upright: the picture in the body's frame, its origin between the eyes of an upright head.
        canvas: the picture in the face frame, its origin between the eyes.
        face: the look.
    """
    head = skin.map_head(canvas, face)
    locks = hair.map_hair(canvas, face)
    if locks is not None:
        hair.paint_back_hair(canvas, locks)
    scene.paint_body(upright, face)
    if not face.hair.length:
        skin.paint_ears(canvas, face)
    skin.paint_skin(canvas, face, head)
    features.paint_eyes(canvas, face)
    features.paint_nose(canvas, face)
    accessories.paint_beard(canvas, face, head)
    features.paint_mouth(canvas, face)
    if locks is not None:
        shadow = hair.shade_under_hair(head, locks, canvas, face)
        head.canvas.darken(shadow * cover(head.distance, canvas.px))
    features.paint_brows(canvas, face)
    accessories.paint_glasses(canvas, face)
    if locks is not None:
        hair.paint_front_hair(canvas, locks, face)


def check_size(size: int) -> None:
    """Raises ValueError if `size` is below SMALLEST."""
    if size < SMALLEST:
        raise ValueError(f"size is {size!r}; give the side in pixels, an integer >= {SMALLEST}")
