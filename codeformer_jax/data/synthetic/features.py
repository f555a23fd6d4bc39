"""Eyes, brows, nose and mouth."""

import numpy as np

from codeformer_jax.data.synthetic.identity import Look
from codeformer_jax.data.synthetic.shapes import Canvas, Number, band, blob, cover, step


def paint_eyes(canvas: Canvas, face: Look) -> None:
    """Paints both eyes.

    Args:
        canvas: the picture in the face frame, its origin between the eyes.
        face: the look.
    """
    for side in (-1.0, 1.0):
        _eye(canvas, face, side)


def _eye(canvas: Canvas, face: Look, side: Number) -> None:
    eyes, px = face.eyes, canvas.px
    # The eye on the side that yaw turns away is foreshortened.
    w = eyes.half_width * (1 - 0.1 * side * face.pose.yaw)
    cx = side * eyes.apart
    part = canvas.box(cx - 2.0 * w, -1.5 * w, cx + 2.0 * w, 1.6 * w)
    gx, gy = part.x, part.y
    x = (gx - np.float32(cx)) * np.float32(side / w)
    y = gy * np.float32(1 / w) + np.float32(eyes.tilt) * x
    unit = px / w
    # Lids are parabolas; the upper one peaks a little towards the nose.
    lean = x + np.float32(0.1)
    upper = np.float32(-eyes.upper) * (1 - x * x) * (1 - 0.22 * lean)
    lower = np.float32(eyes.lower) * (1 - x * x) * (1 + 0.2 * x)
    steep = 1 / np.sqrt(1 + (2 * (eyes.upper + 0.05) * np.clip(x, -1.3, 1.3)) ** 2)
    above, below = (upper - y) * steep, (y - lower) * steep
    opening = np.maximum(above, below)
    _lids(part, face, (x, y, above, below, unit))

    inside = cover(opening, unit)
    white = 0.9 - 0.3 * step(0.35, -0.02, -above) - 0.16 * step(0.5, 1.0, np.abs(x))
    sclera = np.stack([white * 1.0, white * 0.965, white * 0.945])
    corner = blob(x, y, (-0.95, 0.02), 0.2, 0.2)
    sclera -= corner * np.array([0.05, 0.33, 0.33], np.float32)[:, None, None]
    part.over(np.clip(sclera, 0, 1), inside)
    _iris(part, face, (x, y, inside, above, unit, side))

    # Lashes: a line on the upper lid that grows towards the outer corner, a faint one below.
    reach = step(-1.12, -0.7, x) * (1 - step(1.1, 1.28, x))
    thick = np.float32(eyes.liner) * (0.75 + 0.5 * step(-0.6, 0.9, x)) * reach
    lash = band(above - 0.3 * thick, thick, unit) * reach
    part.over((0.07, 0.05, 0.045), 0.92 * lash)
    rim = band(below - 0.02, 0.03, unit) * (1 - step(0.95, 1.1, np.abs(x)))
    part.darken(np.float32(0.22 + 2.0 * eyes.liner) * rim)


def _lids(part: Canvas, face: Look, frame) -> None:
    """Paints the skin around the eye: socket shadow, crease, make-up, bag."""
    x, y, above, below, unit = frame
    eyes = face.eyes
    across = 1 - step(0.85, 1.35, np.abs(x))
    lid = step(-0.05, 0.03, above) * (1 - step(0.3, 0.55, above)) * across
    if eyes.shadow_alpha:
        part.over(eyes.shadow, np.float32(eyes.shadow_alpha) * lid)
    if eyes.crease:
        fold = band(above - eyes.crease, 0.035, unit, 0.11) * across
        part.darken(0.55 * fold)
        part.darken(-0.07 * lid * step(0.0, eyes.crease * 0.5, above))
    inner = blob(x, y, (-1.25, -0.25), 0.45, 0.5)
    part.darken(0.16 * inner)
    bag = band(below - 0.32, 0.05, unit, 0.16) * across
    part.darken(np.float32(0.08 + 0.14 * face.skin.age) * bag)
    part.darken(np.float32(-0.05) * blob(x, y, (0.0, 0.5), 0.7, 0.13))


def _iris(part: Canvas, face: Look, frame) -> None:
    x, y, inside, above, unit, side = frame
    eyes, light = face.eyes, face.light.direction
    gaze_x, gaze_y = eyes.gaze
    ix = x - np.float32(side * (gaze_x + 0.06 * face.pose.yaw))
    iy = y - np.float32(gaze_y - 0.07)
    r = np.sqrt(ix * ix + iy * iy)
    size = eyes.iris_size
    disc = cover(r - size, unit) * inside
    base = np.array(eyes.iris, np.float32)[:, None, None]
    # Lighter below, where light that enters from above comes out; a dark ring outside.
    glow = 0.75 + 0.9 * step(-0.1, 0.5, (iy - ix * light[0]) / size) * step(1.0, 0.4, r / size)
    ring = 1 - 0.55 * step(0.72, 1.0, r / size)
    colour = base * (glow * ring)
    if unit < 0.12:
        rays = np.sin(np.arctan2(iy, ix) * 23) * step(0.4, 0.6, r / size)
        colour = colour * (1 + 0.12 * rays)
    shadow = 1 - 0.45 * step(0.28, 0.0, -above)
    part.over(np.clip(colour * shadow, 0, 1), disc)
    part.over((0.02, 0.015, 0.015), cover(r - 0.44 * size, unit) * inside)
    spot_x = side * (0.32 * size) * (1 if light[0] > 0 else -1)
    spot = np.hypot(ix - np.float32(spot_x), iy + np.float32(0.3 * size)) - 0.24 * size
    part.over((1.0, 1.0, 1.0), 0.95 * cover(spot, unit) * inside)
    back = np.hypot(ix + np.float32(spot_x), iy - np.float32(0.4 * size)) - 0.12 * size
    part.over((0.9, 0.95, 1.0), 0.35 * cover(back, unit, 0.1) * inside)


def paint_brows(canvas: Canvas, face: Look) -> None:
    """Paints both eyebrows; arguments as of `paint_eyes`."""
    brows, px = face.brows, canvas.px
    for side in (-1.0, 1.0):
        inner = 0.055
        length = brows.length * (1 - 0.08 * side * face.pose.yaw)
        part = canvas.box(side * 0.125 - 0.11, -0.17, side * 0.125 + 0.11, -0.03)
        gx, gy = part.x, part.y
        x = (gx * np.float32(side) - np.float32(inner)) * np.float32(1 / length)
        t = np.clip(x, 0, 1)
        bend = 4 * t**1.3 * (1 - t) * 1.15
        centre = brows.y + 0.008 * face.pose.pitch - brows.arch * bend - brows.tilt * t
        centre = centre + 0.02 * np.maximum(t - 0.75, 0)
        taper = np.float32(brows.thickness) * (1 - 0.75 * t**1.5) * (0.7 + 0.3 * step(0, 0.2, t))
        line = gy - centre
        ends = step(-0.05, 0.07, x) * (1 - step(0.93, 1.04, x))
        alpha = band(line, taper, px, 0.006) * ends * np.float32(brows.alpha)
        if px < 1 / 150:
            hairs = np.sin((gx * side * 3.0 + line * 4.5) * 210)
            alpha = alpha * (0.93 + 0.07 * hairs)
        part.over(brows.colour, alpha)


def paint_nose(canvas: Canvas, face: Look) -> None:
    """Paints the nose and its shadow; arguments as of `paint_eyes`."""
    nose, px = face.nose, canvas.px
    nx = 0.024 * face.pose.yaw
    base = nose.tip_y + 0.024 + 0.004 * face.pose.pitch
    width = nose.width
    part = canvas.box(-0.14, nose.tip_y - 0.07, 0.14, base + 0.09)
    x, y = part.x, part.y
    x = x - np.float32(nx * 0.8)
    light = face.light.direction[0]
    # The shadow that the tip casts away from the light, then the wings and the nostrils.
    shadow = blob(x, y, (-0.018 * light, base + 0.018), width * 0.95, 0.016)
    part.darken(0.24 * shadow)
    groove = blob(x, y, (0.0, base + 0.042), 0.007, 0.018)
    part.darken(0.1 * groove)
    side = np.abs(x)
    wing = np.hypot((side - width * 0.82) / 0.95, y - nose.tip_y - 0.012) - np.float32(0.0215)
    outer = step(width * 0.8, width * 1.12, side) * step(-0.014, 0.006, y - nose.tip_y)
    part.darken(0.38 * band(wing, 0.0028, px, 0.008) * outer)
    slope = (side - width * 0.46) * 0.35
    hole = np.hypot((side - width * 0.48) / 1.55, y - base - slope + 0.003) - np.float32(0.0068)
    dark = np.array(face.skin.colour, np.float32) * np.array([0.3, 0.2, 0.18], np.float32)
    part.over(dark, 0.85 * cover(hole, px, 0.005))
    under = band(y - base - 0.004 + 0.9 * np.maximum(side - width * 0.4, 0), 0.0025, px, 0.008)
    part.darken(0.28 * under * (1 - step(width * 0.75, width * 1.05, side)))


def paint_mouth(canvas: Canvas, face: Look) -> None:
    """Paints the mouth; arguments as of `paint_eyes`."""
    mouth, px = face.mouth, canvas.px
    mx, my = 0.012 * face.pose.yaw, mouth.y + 0.004 * face.pose.pitch
    w = mouth.half_width
    part = canvas.box(mx - 1.5 * w, my - 0.07, mx + 1.5 * w, my + 0.12)
    gx, gy = part.x, part.y
    x = (gx - np.float32(mx)) * np.float32(1 / w)
    y = gy - np.float32(my)
    square = x * x
    body = 1 - square
    # Corners rise with a smile; the line between the lips dips in the middle.
    line = np.float32(-0.024 * mouth.smile) * np.minimum(square, 1.6) + 0.003 * np.exp(-9 * square)
    line = line + np.float32(0.012 * mouth.smile)
    bow = np.float32(0.32 * mouth.upper) * np.exp(-((x / 0.17) ** 2))
    gap_up, gap_down = 0.25 * mouth.open, 0.75 * mouth.open
    top = line - (mouth.upper + gap_up) * body * (1 + 0.25 * square) + bow
    inner_top, inner_low = line - gap_up * body, line + gap_down * body
    low = line + (mouth.lower + gap_down) * body * (1 + 0.35 * square)
    flat = np.float32(0.9)
    lips = np.maximum(top - y, y - low) * flat
    light = face.light
    shade = np.float32(light.ambient + 0.78 * light.strength) + 0.1 * light.direction[0] * x

    crease = blob(
        x, y, (0.0, float(mouth.lower + gap_down) + 0.016 + 0.012 * mouth.smile), 0.6, 0.011
    )
    part.darken(0.2 * crease)
    red = np.array(mouth.colour, np.float32)[:, None, None]
    lower_lip = step(-0.002, 0.002, y - line)
    tone = shade * (0.8 + 0.2 * lower_lip) * (1 - 0.14 * np.abs(x))
    part.over(np.clip(red * tone, 0, 1), np.float32(mouth.alpha) * cover(lips, px, 0.004))
    height = mouth.lower * 0.42 + gap_down
    sheen = blob(x, y - line, (0.12 * face.light.direction[0], height), 0.4, 0.0065)
    part.over((1.0, 0.93, 0.92), 0.24 * sheen * lower_lip)

    if mouth.open > 0.002:
        inside = _gap(y, inner_top, inner_low, px)
        part.over((0.22, 0.06, 0.06), inside)
        if mouth.smile > 0.7:
            _teeth(part, (x, y, inside, inner_top, inner_low, px))
    seam = band((y - line if mouth.open <= 0.002 else inner_top - y) * flat, 0.0022, px, 0.004)
    within = 1 - step(0.9, 1.06, np.abs(x))
    part.over(red[:, 0, 0] * np.float32(0.28), 0.8 * seam * within)
    corners = blob(np.abs(x), y - line, (1.02, 0.0), 0.1, 0.008)
    part.darken(0.42 * corners)


def _gap(y: np.ndarray, top: np.ndarray, low: np.ndarray, px: Number) -> np.ndarray:
    """Returns the coverage between two curves, also where they are closer than a pixel."""
    return np.maximum(band(y - 0.5 * (top + low), 0.5 * (low - top), px), 0)


def _teeth(part: Canvas, frame) -> None:
    x, y, inside, inner_top, inner_low, px = frame
    edge = inner_top + 0.86 * (inner_low - inner_top)
    teeth = np.minimum(inside, _gap(y, inner_top, edge, px)) * (1 - step(0.8, 0.98, np.abs(x)))
    bright = 0.95 - 0.3 * step(0.35, 0.95, np.abs(x)) - 0.12 * step(0.008, 0.0, y - inner_top)
    if px < 1 / 100:
        gaps = band((np.abs(((x * 4.6 + 0.5) % 1) - 0.5) - 0.5) * 0.02, 0.0008, px, 0.003)
        bright = bright - 0.2 * gaps
    part.over(np.stack([bright, bright * 0.97, bright * 0.92]), teeth)
