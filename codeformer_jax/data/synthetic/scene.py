"""Surroundings of the head: background, neck and clothes."""

import numpy as np

from codeformer_jax.data.synthetic.identity import Look
from codeformer_jax.data.synthetic.shapes import (
    Canvas,
    Number,
    band,
    blob,
    cover,
    polygon,
    step,
)


def paint_background(canvas: Canvas, background: Look, light) -> None:
    """Paints a smooth gradient with soft structure, brighter towards the light.

    Args:
        canvas: the picture in a frame with its origin in the middle.
        background: the look of the background.
        light: direction and colour of the light.
    """
    x, y, planes = canvas.x, canvas.y, canvas.planes
    phases = background.phases
    along = x * np.float32(np.cos(background.angle)) + y * np.float32(np.sin(background.angle))
    first = np.array(background.first, np.float32)[:, None, None]
    second = np.array(background.second, np.float32)[:, None, None]
    amount = step(-0.6, 0.6, along)
    if background.kind == "panels":
        for phase, width in zip(phases[:4], phases[4:8], strict=True):
            edge = np.float32(0.5 * phase)
            rising = step(edge - 0.03, edge + 0.03, x) * (1 - step(edge + 0.12, edge + 0.2, x))
            amount = amount + rising * np.float32(0.5 * width)
    elif background.kind == "horizon":
        level = -0.15 + 0.2 * float(phases[0])
        amount = 0.3 * amount + 0.7 * step(level - 0.05, level + 0.05, y + 0.04 * x * phases[1])
    planes[:] = first + np.clip(amount, 0, 1) * (second - first)
    if background.kind == "bokeh":
        for right, down, wide in phases[:24].reshape(8, 3):
            cx, cy = 0.52 * float(right), 0.3 * float(down) - 0.15
            radius = 0.07 + 0.04 * float(wide)
            part = canvas.box(cx - 0.13, cy - 0.13, cx + 0.13, cy + 0.13)
            wx, wy = part.x, part.y
            disc = cover(np.hypot(wx - cx, wy - cy) - radius, canvas.px, 0.012)
            part.over(np.minimum(second[:, 0, 0] + 0.25, 1.0), 0.3 * disc)
    glow = blob(x, y, (light.direction[0] * 0.6, -0.25), 0.6, 0.6)
    planes *= np.float32(0.86) + np.float32(0.2) * glow


def paint_body(canvas: Canvas, face: Look) -> None:
    """Paints neck, shoulders and what is below them in the picture.

    Args:
        canvas: the picture in an upright frame with its origin between the eyes.
        face: the look.
    """
    part = canvas.box(-1.0, 0.15, 1.0, 4.0)
    x, y = part.x, part.y
    x = x + np.float32(0.025 * face.pose.yaw)
    clothes, px = face.clothes, canvas.px
    width = face.head.neck
    towards = np.float32(face.light.direction[0])
    side = np.abs(x)
    rise = np.maximum(side - width, 0)
    shoulder = clothes.shoulder_y + clothes.slope * rise + 0.35 * rise * rise
    # Beyond the shoulders, which are outside a picture of one face, the arms hang down.
    shoulder = shoulder + 40 * np.maximum(side - 0.54, 0) ** 2
    body = (shoulder - y) * np.float32(0.88)
    # The opening at the neck, by the kind of neckline.
    depth = clothes.depth
    if clothes.neckline == "vee":
        opening = (side * 1.6 + (y - 0.42 - 0.13 * depth)) * np.float32(0.55)
    elif clothes.neckline == "collar":
        opening = polygon(side, y, [(-0.2, 0.3), (width + 0.01, 0.36), (0.012, 0.5), (-0.2, 0.5)])
    elif clothes.neckline == "turtle":
        opening = y - np.float32(0.43) + 0.5 * side * side
    else:
        centre, rx, ry = 0.4, width * 1.01, 0.065 + 0.03 * depth
        opening = (np.hypot(side / rx, np.maximum(y - centre, 0) / ry) - 1) * np.float32(ry)
    if clothes.neckline == "turtle":
        body = np.minimum(body, np.maximum(side - width * 1.08, 0.36 - y))
    flare = _neck_width(y, width)
    opening = np.maximum(opening, side - flare)
    cloth = np.maximum(body, -opening)
    shade = 0.86 + 0.35 * towards * x - 0.5 * np.maximum(side - 0.3, 0) + 0.1 * step(0.3, 0.5, y)
    shade = shade - 0.22 * blob(x, y, (0, 0.36), 0.2, 0.1)
    folds = np.sin(x * 31 + 6 * y + 9 * clothes.slope) * np.sin(x * 13 - 22 * y)
    shade = shade + np.float32(0.025) * folds
    colour = np.array(clothes.colour, np.float32)[:, None, None] * shade
    # Behind the neck the inside of the clothes shows, in shadow.
    part.over(colour * np.float32(0.45), cover(body, px))
    _neck(part, canvas, face)
    part.over(colour, cover(cloth, px))
    rim = band(opening, 0.006, px) * cover(body, px)
    if clothes.neckline == "collar":
        _shirt_collar(part, px, (x, y, shade, width), clothes)
    elif clothes.neckline != "turtle":
        part.darken(0.3 * rim, (1, 1, 1))


def _neck_width(y: np.ndarray, width: Number) -> np.ndarray:
    return width + 0.9 * np.maximum(y - 0.4, 0) ** 1.5 + 0.15 * np.maximum(y - 0.46, 0)


def _neck(part: Canvas, canvas: Canvas, face: Look) -> None:
    x, y = part.x, part.y
    x = x + np.float32(0.025 * face.pose.yaw)
    width, px = face.head.neck, canvas.px
    flare = _neck_width(y, width)
    inside = np.maximum(np.abs(x) - flare, y - np.float32(0.65))  # It ends under the clothes.
    round_shade = np.sqrt(np.clip(1 - (x / (flare + 0.04)) ** 2, 0.05, 1))
    shade = 0.5 + 0.38 * round_shade + 0.5 * face.light.direction[0] * x
    # The head's shadow: deepest under the chin.
    shade = shade * (1 - 0.42 * step(0.16, 0.0, y - np.float32(face.head.chin_y) + 0.35 * x * x))
    tendon = band(np.abs(x) - (0.105 - 0.16 * (y - 0.35)), 0.006, px, 0.02)
    shade = shade - 0.05 * tendon * step(0.4, 0.47, y)
    albedo = np.array(face.skin.colour, np.float32) * np.float32(0.97)
    colour = albedo[:, None, None] * np.stack([shade**0.86, shade, shade**1.08])
    part.over(colour, cover(inside, px))


def _shirt_collar(part: Canvas, px: Number, frame, clothes) -> None:
    x, y, shade, width = frame
    corners = [(width + 0.005, 0.345), (width + 0.05, 0.41), (0.095, 0.56), (0.01, 0.495)]
    flap = polygon(np.abs(x), y, corners)
    colour = np.array(clothes.colour, np.float32) * np.float32(0.92) + np.float32(0.07)
    part.over(colour[:, None, None] * (shade + 0.06), cover(flap, px))
    part.darken(0.25 * band(flap, 0.003, px), (1, 1, 1))
