"""The head's shape and the light on its skin."""

import dataclasses

import numpy as np

from codeformer_jax.data.synthetic.identity import Look
from codeformer_jax.data.synthetic.shapes import (
    Canvas,
    Number,
    Outline,
    band,
    blob,
    cover,
    step,
)


@dataclasses.dataclass(frozen=True)
class HeadMap:
    """The head's pixels: coordinates moved to the head's axis, outline distance, shade [h, w]."""

    canvas: Canvas
    x: np.ndarray
    y: np.ndarray
    axis: Number
    outline: Outline
    distance: np.ndarray
    shade: np.ndarray
    gloss: np.ndarray


def head_outline(face: Look, grow_top: Number = 0.0, grow_side: Number = 0.0) -> Outline:
    """Returns the head's silhouette in its own frame.

    Args:
        face: the look.
        grow_top, grow_side: lengths by which it grows, for hair.
    """
    head = face.head
    w, chin = head.width, head.chin_y
    points = [
        (0.0, chin),
        (head.chin, chin - 0.012),
        (head.chin * 0.45 + w * head.jaw * 0.5, chin - 0.055),
        (w * head.jaw * 0.93, chin - 0.15),
        (w * (0.5 + head.jaw / 2), 0.17),
        (w, 0.06),
        (w * 1.0 + grow_side, -0.06),
        (w * 0.97 + grow_side, -0.18),
        (w * 0.82 + grow_side * 0.8 + grow_top * 0.2, -0.3 - grow_top * 0.6),
        (w * 0.45 + grow_side * 0.3, head.crown_y + 0.035 - grow_top),
        (0.0, head.crown_y - grow_top),
    ]
    return Outline.through(points, centre_y=0.03)


def map_head(canvas: Canvas, face: Look) -> HeadMap:
    """Returns outline and lighting of the head.

    Args:
        canvas: the picture in the face frame, its origin between the eyes.
        face: the look.
    """
    axis = -0.03 * face.pose.yaw
    part = canvas.box(-0.36, -0.52, 0.36, 0.52)
    x, y = part.x, part.y
    outline = head_outline(face)
    distance = outline.distance(x - np.float32(axis), y)
    slope_x, slope_y = _slopes(x, y, face, axis)
    depth = 1 / np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
    lx, ly, lz = (np.float32(value) for value in face.light.direction)
    facing = (slope_x * lx + slope_y * ly + lz) * depth
    wrap = np.float32(0.3)
    diffuse = np.clip((facing + wrap) / (1 + wrap), 0, 1)
    shade = np.float32(face.light.ambient) + np.float32(face.light.strength) * diffuse
    # Blinn's half vector between the light and the viewer, who looks along -z.
    hx, hy, hz = lx, ly, lz + 1
    norm = np.float32(1 / np.sqrt(hx * hx + hy * hy + hz * hz))
    half = np.clip((slope_x * hx + slope_y * hy + hz) * depth * norm, 0, 1)
    square = half * half
    gloss = (square * square) ** 5
    edge = step(-0.06, 0.005, distance)
    return HeadMap(part, x, y, axis, outline, distance, shade * (1 - 0.18 * edge), gloss)


def _slopes(x: np.ndarray, y: np.ndarray, face: Look, axis: Number):
    """Returns slopes of the surface: an egg, plus soft bumps for the relief of the face."""
    head, nose = face.head, face.nose
    cy = 0.5 * (head.chin_y + head.crown_y)
    ex = (x - np.float32(axis)) * np.float32(1 / (head.width * 1.06))
    ey = (y - np.float32(cy)) * np.float32(1 / (0.54 * (head.chin_y - head.crown_y)))
    radius = ex * ex + ey * ey
    # Flat in front, steep at the rim.
    steep = 0.25 + 0.75 * radius
    fall = steep / np.sqrt(np.maximum(1.04 - radius, np.float32(0.06)))
    slope_x, slope_y = ex * fall, ey * fall * np.float32(0.7)
    nx = 0.024 * face.pose.yaw
    smile = max(face.mouth.smile, 0.0)
    age = face.skin.age
    tip, strength = nose.tip_y, nose.height
    cheek = 0.014 + 0.008 * smile
    bumps = [
        (nx * 0.4, 0.055, nose.bridge, 0.075, 0.016 * strength),
        (nx, tip, nose.width * 0.68, 0.032, 0.024 * strength),
        (nx * 0.8 - nose.width, tip + 0.012, 0.017, 0.018, 0.008),
        (nx * 0.8 + nose.width, tip + 0.012, 0.017, 0.018, 0.008),
        (-0.1, -0.075, 0.085, 0.03, 0.008),
        (0.1, -0.075, 0.085, 0.03, 0.008),
        (-0.115, 0.0, 0.06, 0.042, -0.009 - 0.004 * age),
        (0.115, 0.0, 0.06, 0.042, -0.009 - 0.004 * age),
        (-0.145, 0.125 - 0.01 * smile, 0.075, 0.06, cheek),
        (0.145, 0.125 - 0.01 * smile, 0.075, 0.06, cheek),
        (0.0, face.mouth.y, 0.1, 0.06, 0.011),
        (0.0, head.chin_y - 0.055, 0.05, 0.04, 0.014),
        (0.0, face.mouth.y + 0.062, 0.06, 0.018, -0.005),
        (0.0, -0.2, 0.16, 0.1, 0.014),
    ]
    for cx, by, sx, sy, height in bumps:
        reach = 2.4
        near = _rows_near(y, by - reach * sy, by + reach * sy)
        px_, py_ = x[near], y[near]
        spot = blob(px_, py_, (cx, by), sx, sy) * np.float32(height)
        slope_x[near] += spot * (px_ - np.float32(cx)) * np.float32(2 / sx**2)
        slope_y[near] += spot * (py_ - np.float32(by)) * np.float32(2 / sy**2)
    return slope_x, slope_y


def _rows_near(y: np.ndarray, low: Number, high: Number) -> slice:
    """Returns the rows of a slightly rotated window that can hold a y in [low, high]."""
    nearest, farthest = y.min(axis=1), y.max(axis=1)
    first = int(np.searchsorted(farthest, low))
    last = int(np.searchsorted(nearest, high))
    return slice(first, last)


def paint_skin(canvas: Canvas, face: Look, head: HeadMap) -> None:
    """Paints lit skin with red and pale regions, sheen, freckles and wrinkles.

    Args:
        canvas: the picture in the face frame.
        face: the look.
        head: outline and shade of the head.
    """
    x, y, skin = head.x, head.y, face.skin
    nx = 0.024 * face.pose.yaw
    red = blob(x, y, (-0.15, 0.14), 0.075, 0.06) + blob(x, y, (0.15, 0.14), 0.075, 0.06)
    red = red + 0.6 * blob(x, y, (nx, face.nose.tip_y), 0.045, 0.04)
    red = red * np.float32(skin.blush * 0.11)
    sunken = blob(x, y, (-0.118, 0.005), 0.07, 0.045) + blob(x, y, (0.118, 0.005), 0.07, 0.045)
    shade = head.shade * (1 - np.float32(0.07 + 0.06 * skin.age) * sunken)
    shade = shade - _wrinkles(x, y, face, canvas.px)
    if skin.freckles:
        shade = shade - _freckles(x, y, face)
    if canvas.px < 1 / 150:
        shade = shade + _grain(x, y, face)
    r, g, b = (np.float32(value) for value in skin.colour)
    shade = np.clip(shade, 0.05, 1.5)
    warm = np.sqrt(shade)
    tint = face.light.tint
    colour = np.stack(
        [
            r * tint[0] * (0.64 * shade + 0.36 * warm),
            g * tint[1] * (1.03 * shade - 0.03 * warm) * (1 - red),
            b * tint[2] * (1.14 * shade - 0.14 * warm) * (1 - 0.85 * red),
        ]
    )
    colour += np.float32(skin.shine) * head.gloss
    head.canvas.over(colour, cover(head.distance, canvas.px))


def _wrinkles(x: np.ndarray, y: np.ndarray, face: Look, px: Number) -> np.ndarray:
    smile, amount = max(face.mouth.smile, 0.0), face.skin.wrinkles
    side = np.abs(x)
    # The fold from the wing of the nose past the corner of the mouth.
    below = y - face.nose.tip_y
    fold_x = 0.05 + 0.85 * below - 3.2 * below * below + 0.014 * smile
    fade = step(face.nose.tip_y, face.nose.tip_y + 0.04, y)
    fade = fade * (1 - step(face.mouth.y - 0.02, face.mouth.y + 0.03, y))
    fold = band((side - fold_x) * np.float32(0.88), 0.003, px, 0.02) * fade
    total = fold * np.float32(0.07 + 0.35 * amount + 0.2 * smile)
    if amount > 0:
        for row in (-0.16, -0.19, -0.22):
            line = band(y - row - 0.25 * x * x + 0.004 * np.sin(30 * x + 90 * row), 0.002, px, 0.01)
            total = total + line * np.float32(0.3 * amount) * (1 - step(0.07, 0.16, side))
        for tilt in (-0.35, 0.0, 0.35):
            line = band(y - 0.0 - tilt * (side - 0.17), 0.0015, px, 0.008)
            total = total + line * np.float32(0.2 * amount) * _between(side, 0.19, 0.225, 0.012)
        frown = band(side - 0.02 + 0.1 * (y + 0.09), 0.0015, px, 0.009)
        total = total + frown * np.float32(0.25 * amount) * _between(y, -0.115, -0.07, 0.012)
    return total


def _between(value: np.ndarray, low: Number, high: Number, soft: Number) -> np.ndarray:
    return step(low - soft, low + soft, value) * (1 - step(high - soft, high + soft, value))


def _freckles(x: np.ndarray, y: np.ndarray, face: Look) -> np.ndarray:
    total = np.zeros_like(x)
    for dx, dy in face.hair.strands[:96].reshape(48, 2):
        cx, cy = 0.19 * float(dx), 0.11 + 0.055 * float(dy) - 0.03 * float(dx) ** 2
        near = _rows_near(y, cy - 0.012, cy + 0.012)
        total[near] += blob(x[near], y[near], (cx, cy), 0.0045, 0.0045)
    return np.float32(0.1 * face.skin.freckles) * np.minimum(total, 1)


def _grain(x: np.ndarray, y: np.ndarray, face: Look) -> np.ndarray:
    """Returns pores, which are too fine for small sizes."""
    fine = np.sin(x * 811 + 5 * np.sin(y * 313)) * np.sin(y * 787 + 5 * np.sin(x * 291))
    return np.float32(0.012 + 0.01 * face.skin.age) * fine


def paint_ears(canvas: Canvas, face: Look) -> None:
    """Paints both ears, behind the face; the one that yaw turns away is narrower.

    Args:
        canvas: the picture in the face frame.
        face: the look.
    """
    head, px = face.head, canvas.px
    albedo = np.array(face.skin.colour, np.float32) * np.array([0.93, 0.8, 0.76], np.float32)
    for side in (-1.0, 1.0):
        turned = 1 - 0.5 * side * face.pose.yaw
        cx = side * (head.width + 0.012 * turned) - 0.03 * face.pose.yaw
        rx, ry = 0.034 * max(turned, 0.35) * head.ear, 0.072 * head.ear
        part = canvas.box(cx - 0.09, -0.08, cx + 0.09, 0.18)
        x, y = part.x, part.y
        ox, oy = (x - cx) * side, y - 0.045
        # Wider at the top than at the lobe, leaning outwards.
        width = rx * (1.0 - 2.2 * oy)
        ring = np.hypot((ox + 0.12 * oy) / width, oy / ry)
        inside = (ring - 1) * np.float32(rx)
        lit = 0.72 + 0.3 * side * face.light.direction[0]
        inner = blob(ox, oy, (0.002, -0.005), rx * 0.55, ry * 0.6)
        shade = np.clip(lit - 0.33 * inner + 0.1 * step(0.7, 0.9, ring), 0.1, 1.2)
        part.over(albedo[:, None, None] * shade, cover(inside, px))
        if face.clothes.earrings:
            drop = np.hypot(ox - 0.004, oy - ry * 1.0) - 0.011
            part.over((0.93, 0.85, 0.6), cover(drop, px))
            part.over((1.0, 0.99, 0.93), cover(drop + 0.007, px))
