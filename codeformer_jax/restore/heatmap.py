"""Picture of a restored face beside the bits of its codes."""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from codeformer_jax.restore.fit import Fitted

_PAPER, _INK = (255, 255, 255), (20, 20, 20)
_MARGIN, _BAR = 10, 16
_LEAST_SIDE = 256
# Even steps of lightness, readable in print and by the colour-blind.
_HEX = "000004 280b54 65156e 9f2a63 d44842 f57d15 fac127 fcffa4"
_COLORS = np.array([list(bytes.fromhex(color)) for color in _HEX.split()], np.float32)
# One scale for all pictures of a prior: it ends at this multiple of a blind guess.
_TOP = 1.5
_WEIGHT = 0.65
_HEAD, _LABEL = 22, 60
_LEAST_SIZE = (480, 120)  # Width and height that the text needs.

Picture = UInt8[np.ndarray, "h w 3"]


def draw_heatmap(
    restored: Picture,
    bits: Float[np.ndarray, "rows columns"],
    fitted: Fitted,
    *,
    uniform: float,
    heldout: float | None,
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Draws the face, the face under the bits of its codes, and a colour bar.

    Args:
        restored: the result, cut to its picture.
        bits: of the codes over the whole square of the network.
        fitted: position of the picture in the square.
        uniform: bits of a blind guess.
        heldout: mean bits of held-out clean faces, or None.

    Returns:
        The sheet.
    """
    grow = max(1, -(-_LEAST_SIDE // max(restored.shape[:2])))
    height, width = (side * grow for side in restored.shape[:2])
    face = np.asarray(Image.fromarray(restored).resize((width, height), Image.Resampling.NEAREST))
    spread = Image.fromarray(_over_picture(bits, fitted))
    spread = np.asarray(spread.resize((width, height), Image.Resampling.BILINEAR))
    end = _TOP * uniform
    luma = face.astype(np.float32).mean(axis=-1, keepdims=True)
    shown = _WEIGHT * _color(spread / end) + (1 - _WEIGHT) * luma
    columns, rows = 2 * width + 3 * _MARGIN, max(height, _LEAST_SIZE[1])
    whole = (max(columns + _BAR + _LABEL, _LEAST_SIZE[0]), rows + _HEAD + _MARGIN)
    sheet = Image.new("RGB", whole, _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    clean = "" if heldout is None else f"clean faces {heldout:.2f}, "
    text = f"{bits.mean():.2f} bits per code ({clean}a blind guess {uniform:.2f})"
    pen.text((_MARGIN, 4), text, _INK, font)
    sheet.paste(Image.fromarray(face), (_MARGIN, _HEAD))
    sheet.paste(Image.fromarray(shown.astype(np.uint8)), (2 * _MARGIN + width, _HEAD))
    bar = _color(np.linspace(1, 0, rows, dtype=np.float32)[:, None].repeat(_BAR, axis=1))
    sheet.paste(Image.fromarray(bar.astype(np.uint8)), (columns, _HEAD))
    for y, label in ((_HEAD, f"{end:.0f} or more"), (_HEAD + rows - 14, "0")):
        pen.text((columns + _BAR + 4, y), label, _INK, font)
    return np.array(sheet)


def _over_picture(
    bits: Float[np.ndarray, "rows columns"], fitted: Fitted
) -> Float[np.ndarray, "h w"]:
    """Returns the bits at every pixel of the picture in the square."""
    size = fitted.pixels.shape[:2]
    image = Image.fromarray(bits.astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR)
    rows = slice(fitted.top, fitted.top + fitted.height)
    return np.asarray(image)[rows, fitted.left : fitted.left + fitted.width]


def _color(shares: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 3"]:
    """Returns the colours, 0..255, of shares 0..1 of the scale."""
    steps = np.linspace(0, 1, len(_COLORS))
    return np.stack([np.interp(shares, steps, channel) for channel in _COLORS.T], axis=-1)
