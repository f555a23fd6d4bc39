"""Hair: one silhouette and one opening for the face; what lies between them is hair."""

import dataclasses

import numpy as np

from codeformer_jax.data.synthetic import palette
from codeformer_jax.data.synthetic.identity import Look
from codeformer_jax.data.synthetic.shapes import (
    TURN,
    Canvas,
    Number,
    Outline,
    band,
    cover,
    melt,
    step,
)
from codeformer_jax.data.synthetic.skin import HeadMap, head_outline


@dataclasses.dataclass(frozen=True)
class HairMap:
    """The hair's pixels: distances to silhouette and opening [h, w], lit colour [3, h, w]."""

    canvas: Canvas
    silhouette: np.ndarray
    opening: np.ndarray
    colour: np.ndarray


def map_hair(canvas: Canvas, face: Look) -> HairMap | None:
    """Returns shape and lit colour of the hair; None for a bald head.

    Args:
        canvas: the picture in the face frame, its origin between the eyes.
        face: the look.
    """
    hair = face.hair
    if hair.style == "bald":
        return None
    part = canvas.box(-0.56, -0.62, 0.56, max(hair.length + 0.1, 0.56) if hair.length else 0.35)
    x, y = part.x, part.y
    x = x + np.float32(0.035 * face.pose.yaw)
    silhouette = _silhouette(x, y, canvas, face)
    opening = _opening(x, y, face)
    return HairMap(part, silhouette, opening, _colour(x, y, canvas, face, (silhouette, opening)))


def _silhouette(x: np.ndarray, y: np.ndarray, canvas: Canvas, face: Look) -> np.ndarray:
    hair = face.hair
    outline = head_outline(face, hair.lift, hair.side + 0.006)
    radii = outline.radii.astype(np.float64)
    # Short hair ends behind the ears: below them the silhouette shrinks into the head.
    below = np.clip((1.75 - np.abs(TURN)) / 0.5, 0, 1)
    radii = radii - (0.0 if hair.length else 0.06) * below
    # A parting lets the fuller side rise.
    radii = radii + 0.25 * hair.part * np.sin(TURN) * np.clip(np.abs(TURN) - 1.8, 0, 1)
    if hair.curl:
        phase = 6 * float(hair.strands[0])
        lumps = np.sin(19 * TURN + phase) + 0.7 * np.sin(31 * TURN + 2 * phase)
        radii = radii + hair.curl * lumps * (np.abs(TURN) > 0.6)
    if hair.style == "quiff":
        radii = radii + 0.006 * np.sin(13 * TURN) * (np.abs(TURN) > 2.2)
    distance = Outline.from_radii(0.03, radii).distance(x, y)
    if hair.length:
        distance = melt(distance, _curtain(x, y, hair, face.head.width), 0.06)
    if hair.style == "tied":
        knot = np.hypot(x, (y - face.head.crown_y + 0.02) * 1.15) - np.float32(0.085)
        distance = np.minimum(distance, knot)
    return distance


def _curtain(x: np.ndarray, y: np.ndarray, hair: Look, width: Number) -> np.ndarray:
    """Returns the distance to hair that hangs from the temples down to `length`."""
    sway = hair.wave * np.sin(y * 24 + 3 * float(hair.strands[1]))
    side = np.abs(x) + sway
    reach = width + hair.side * hair.spread + 0.04 * hair.spread * step(0.0, 0.35, y)
    # It comes out of the cap of hair gradually, so no notch shows where the two meet.
    reach = reach - 0.07 * step(0.1, -0.16, y)
    reach = reach - (0.1 if hair.curl else 0.05) * step(hair.length - 0.1, hair.length + 0.02, y)
    if hair.curl:
        reach = reach + hair.curl * np.sin(y * 55 + 4 * float(hair.strands[2]))
    end = y - np.float32(hair.length) - 0.12 * (np.abs(x) - 0.25)
    return np.maximum.reduce([side - reach, end, np.float32(-0.2) - y])


def _opening(x: np.ndarray, y: np.ndarray, face: Look) -> np.ndarray:
    """Returns a distance, negative where the face shows: below the hairline, between the sides."""
    hair, width = face.hair, face.head.width
    if hair.style == "scarf":
        middle = 0.5 * (face.head.chin_y - 0.012 + hair.hairline)
        reach = 0.5 * (face.head.chin_y - 0.012 - hair.hairline)
        oval = np.sqrt((x / (width * 0.94)) ** 2 + ((y - middle) / reach) ** 2) - 1
        return oval * np.float32(width)
    from_part = x - np.float32(hair.part)
    left, right = np.maximum(-from_part, 0), np.maximum(from_part, 0)
    line = hair.hairline + 0.008 * face.pose.pitch
    line = line + hair.left * left**1.25 + hair.right * right**1.25 + 0.9 * x * x
    line = line - hair.recede * np.exp(-(((np.abs(x) - 0.12) / 0.05) ** 2))
    if hair.style in ("fringe", "mop", "crop", "quiff", "curls", "afro"):
        tips = np.interp(x * 55 + 128, np.arange(256), hair.strands).astype(np.float32)
        line = line + (0.011 if hair.style in ("fringe", "mop") else 0.005) * tips
    # How wide the face shows at each height: short hair ends in sideburns, long hair hangs on.
    if hair.length:
        heights = (-0.3, -0.16, -0.02, 0.12, 0.28, 0.4, 0.53)
        cheek = width * 0.95 + hair.side_opening
        widths = (0.2, width * 0.92, cheek, cheek, width * 0.84, 0.19, 0.2)
    elif hair.style == "beanie":
        heights, widths = (-0.16, -0.09), (width, 0.6)
    else:
        heights = (-0.3, -0.16, -0.06, 0.03, 0.06, 0.1)
        widths = (0.17, width * 0.84, width * 0.9, width * 0.93, width * 1.0, 0.5)
    turned = np.interp(y, heights, widths).astype(np.float32)
    if hair.length:
        turned = turned + 0.6 * hair.wave * np.sin(y * 24)
    sides = np.abs(x) - turned
    top = (line - y) * np.float32(0.9)
    # A rounded corner where hairline and side meet.
    corner = np.float32(0.035)
    inner = np.minimum(np.maximum(top, sides) + corner, 0)
    return inner + np.hypot(np.maximum(top + corner, 0), np.maximum(sides + corner, 0)) - corner


def _colour(x: np.ndarray, y: np.ndarray, canvas: Canvas, face: Look, shapes) -> np.ndarray:
    hair, light = face.hair, face.light
    silhouette, opening = shapes
    crown = np.float32(face.head.crown_y - 0.02)
    # Strands leave the parting sideways and bend down: s is constant along each.
    fall = 0.07 + 0.26 * step(-0.05, 0.45, y - crown)
    s = (x - np.float32(hair.part)) / fall
    if hair.length:
        s = s + 2.5 * hair.wave * np.sin(y * 24 + 3 * float(hair.strands[1]))
    strand = _strands(s, hair.strands, canvas.px)
    colour = hair.colour
    if hair.style in palette.COVERED:
        colour = hair.cloth
        strand = 0.3 * np.sin(14 * np.sqrt(np.abs(opening) + 0.02) + 5 * x)
        if hair.style == "beanie":
            strand = 0.3 * np.sin(150 * x) - 0.7 * step(0.055, 0.075, opening)
    if hair.curl:
        strand = 0.4 * strand + 0.35 * np.sin(x * 62 + 4 * np.sin(y * 41)) * np.sin(
            y * 66 + 4 * np.sin(x * 47)
        )
    nx = np.clip(x * np.float32(1 / (face.head.width + hair.side + 0.06)), -1, 1)
    ny = np.clip((y + 0.05) * np.float32(1 / 0.46), -1, 1)
    nz = np.sqrt(np.maximum(1 - 0.5 * nx * nx - 0.5 * ny * ny, 0))
    lx, ly, lz = light.direction
    facing = nx * np.float32(lx) + 0.7 * ny * np.float32(ly) + nz * np.float32(lz)
    shade = 0.36 + 0.62 * light.strength * np.clip(facing + 0.45, 0, 1.4)
    # Deeper where hair turns under at its rim, in front of the face and low behind the neck.
    shade = shade * (1 - 0.3 * step(-0.05, 0.0, silhouette))
    shade = shade * (1 - 0.22 * step(0.035, 0.0, opening))
    shade = shade * (1 - 0.25 * step(0.1, 0.45, y)) * (1 + 0.17 * strand)
    if hair.style == "tied":
        ring = np.hypot(x, (y - face.head.crown_y + 0.02) * 1.15) - np.float32(0.085)
        shade = shade * (1 - 0.35 * band(ring, 0.004, canvas.px, 0.02))
    # A band of gloss across the strands, where they face half way to the light.
    arch = y - crown - 0.13 - 0.75 * (x - 0.12 * np.float32(lx)) ** 2
    gloss = np.exp(-((arch / 0.045) ** 2)) * np.clip(0.75 + 0.5 * strand, 0, 1.4)
    gloss = gloss * np.float32(hair.gloss) * (1 - step(0.16, 0.3, np.abs(x)))
    base = np.array(colour, np.float32)[:, None, None]
    tint = (0.35 + 0.9 * base) * np.float32(hair.style not in palette.COVERED)
    return np.clip(base * (1.25 * shade) + gloss * tint + 0.015, 0, 1)


def _strands(s: np.ndarray, table: np.ndarray, px: Number) -> np.ndarray:
    """Returns smooth noise in about [-1, 1]; octaves finer than a pixel or two fade out."""
    total = np.zeros_like(s)
    knots = np.arange(256)
    for frequency, weight in ((9.0, 0.55), (23.0, 0.5), (61.0, 0.45), (140.0, 0.4)):
        seen = float(np.clip(1.6 - 5.0 * frequency * px, 0, 1))
        if seen > 0:
            place = (s * np.float32(frequency) + np.float32(64 + frequency)) % 255
            total += np.float32(seen * weight) * np.interp(place, knots, table).astype(np.float32)
    return total


def paint_back_hair(canvas: Canvas, hair: HairMap) -> None:
    """Paints the hair behind neck and shoulders, in their shade.

    Args:
        canvas: the picture in the face frame.
        hair: shape and colour of the hair.
    """
    dark = hair.colour * np.float32(0.6)
    hair.canvas.over(dark, cover(hair.silhouette, canvas.px))


def paint_front_hair(canvas: Canvas, hair: HairMap, face: Look) -> None:
    """Paints the hair in front of the head; arguments as of `paint_back_hair`."""
    soft = 0.012 if face.hair.style in ("buzz",) else 0.004
    front = np.maximum(hair.silhouette, -hair.opening)
    alpha = cover(front, canvas.px, soft)
    if face.hair.style == "buzz":
        alpha = alpha * np.float32(0.82)
    hair.canvas.over(hair.colour, alpha)


def shade_under_hair(head: HeadMap, hair: HairMap, canvas: Canvas, face: Look) -> np.ndarray:
    """Returns the shadow of the hair on the skin: [h, w] in the head's window, 0 for none.

    Args:
        head: outline and shade of the head.
        hair: shape of the hair.
        canvas: the picture in the face frame.
        face: the look.
    """
    full = np.full(canvas.x.shape, -1, np.float32)
    full[hair.canvas.window] = hair.opening
    near = full[head.canvas.window]
    depth = 0.02 if face.hair.style == "buzz" else 0.05
    shadow = 0.3 * step(-depth, 0.005, near)
    if not face.hair.length:
        # The opening widens abruptly where sideburns end; the shadow must not.
        shadow = shadow * step(0.055, -0.02, head.y)
    return shadow
