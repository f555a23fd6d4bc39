"""Beards and glasses."""

import numpy as np

from codeformer_jax.data.synthetic.identity import Look
from codeformer_jax.data.synthetic.shapes import TURN, Canvas, Number, Outline, band, cover, step
from codeformer_jax.data.synthetic.skin import HeadMap


def paint_beard(canvas: Canvas, face: Look, head: HeadMap) -> None:
    """Paints the beard, if there is one.

    Args:
        canvas: the picture in the face frame, its origin between the eyes.
        face: the look.
        head: outline and shade of the head.
    """
    beard = face.beard
    if beard.kind == "none":
        return
    part = canvas.box(-0.36, -0.05, 0.36, 0.53)
    x, y = part.x, part.y
    px = canvas.px
    x = x - np.float32(head.axis * 0.5)
    mask = _mask(x, y, face, px)
    soft = 0.03 if beard.kind == "stubble" else 0.016
    radii = head.outline.radii.astype(np.float64)
    grown = radii + beard.extra * np.clip(1.3 - np.abs(TURN), 0, 1) * (beard.kind == "full")
    edge = Outline.from_radii(0.03, grown).distance(x - np.float32(head.axis * 0.5), y)
    strokes = np.sin(x * 331 + 5 * np.sin(y * 71 + 40 * x)) * np.sin(y * 173 + 3 * np.sin(x * 141))
    texture = 1 + (0.13 if px < 1 / 150 else 0.05) * strokes
    lit = 0.8 + 0.25 * face.light.direction[0] * x * 3 - 0.35 * step(-0.05, 0.02, edge)
    colour = np.array(beard.colour, np.float32)[:, None, None] * (1.2 * lit * texture)
    alpha = np.float32(beard.alpha) * mask * cover(edge, px, soft * 0.5)
    part.over(np.clip(colour, 0, 1), alpha)


def _mask(x: np.ndarray, y: np.ndarray, face: Look, px: Number) -> np.ndarray:
    beard, mouth = face.beard, face.mouth
    side = np.abs(x)
    my, w = mouth.y + 0.004 * face.pose.pitch, mouth.half_width
    soft = 0.035 if beard.kind == "stubble" else 0.018
    arc = np.clip(1 - (side / (w * 1.15)) ** 2, 0, 1)
    lift = 0.02 * mouth.smile * (side / w) ** 2
    lip_top = my - lift - (mouth.upper + 0.004) * arc + 0.004
    # Between nose and lip, ending past the corners of the mouth.
    nose_base = face.nose.tip_y + 0.034
    thick = np.maximum(lip_top - nose_base, 0.016) * (1 - (side / (w * 1.18)) ** 2)
    thick = thick - 0.005 * step(0.014, 0.0, side)
    moustache = band(y - lip_top + 0.5 * thick, 0.5 * thick, px, soft * 0.5)
    moustache = np.maximum(moustache, 0)
    if beard.kind == "moustache":
        return moustache
    low = my + mouth.lower + 0.75 * mouth.open + 0.006
    if beard.kind == "goatee":
        ring = np.hypot(x / (w * 1.18), (y - my - 0.035) / 0.125) - 1
        jaw = cover(ring * np.float32(0.09), px, soft)
    else:
        cheek = my - 0.01 - 7.0 * np.maximum(side - 0.085, 0) ** 2
        # Sideburns fade in, so that no edge shows where the hair ends.
        fade = 0.06 if beard.kind == "stubble" else 0.03
        jaw = cover(cheek - y, px, soft) * step(0.03, 0.05 + fade, y)
    with np.errstate(divide="ignore"):  # Where the lips meet, everything else is far away.
        height = (y - 0.5 * (lip_top + low) - 0.002) / (0.5 * (low - lip_top))
    lips = np.hypot(x / (w * 1.05), height)
    clear = cover((1 - lips) * np.float32(0.035), px, 0.012)
    return np.maximum(jaw * clear, moustache)


def paint_glasses(canvas: Canvas, face: Look) -> None:
    """Paints the glasses, if there are any; arguments as of `paint_beard`."""
    glasses, px = face.glasses, canvas.px
    if glasses.kind == "none":
        return
    part = canvas.box(-0.31, -0.12, 0.31, 0.14)
    x, y = part.x, part.y
    side = np.abs(x - np.float32(0.008 * face.pose.yaw))
    y = y - np.float32(0.012)
    hw, hh = glasses.half_width, glasses.half_height
    cx = face.eyes.apart + 0.004
    dx = side - np.float32(cx)
    if glasses.kind == "round":
        rim = np.hypot(dx, y) - np.float32(0.5 * (hw + hh))
    else:
        # A rounded box; aviators taper towards the cheek.
        taper = 0.25 * (y + hh) if glasses.kind == "aviator" else np.float32(0)
        corner = np.float32(0.045 if glasses.kind == "aviator" else 0.022)
        qx = np.abs(dx + 0.3 * taper) - (hw - corner - 0.3 * taper)
        qy = np.abs(y) - (hh - corner)
        outside = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0))
        rim = outside + np.minimum(np.maximum(qx, qy), 0) - corner
    lens = cover(rim, px)
    part.over((0.1, 0.1, 0.12), np.float32(glasses.tint) * lens)
    streak = band(dx + 0.9 * y - 0.015, 0.014, px, 0.01) * lens
    part.over((1.0, 1.0, 1.0), 0.1 * streak)
    thick = glasses.rim
    shadow = band(rim - 0.006, thick, px, 0.014) * (y > 0)
    part.over((0.15, 0.08, 0.06), 0.16 * shadow)
    frame = band(rim, thick, px)
    gap = max(cx - hw, 0.012)
    bridge = band(y + 0.018 - 1.2 * side * side, thick * 0.9, px) * cover(side - gap, px)
    temple = band(y + 0.03, thick * 0.9, px) * cover(cx + hw - side, px)
    temple = temple * cover(np.abs(x + 0.03 * face.pose.yaw) - face.head.width, px)
    frame = np.clip(frame + bridge + temple, 0, 1)
    shine = 0.85 + 0.5 * step(0.0, -0.05, y)
    colour = np.array(glasses.colour, np.float32)[:, None, None] * shine
    part.over(np.clip(colour, 0, 1), frame)
