"""A restored face beside the bits of its codes, as a picture."""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from codeformer_jax.restore.fit import Fitted

_PAPER, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)
_MARGIN, _BAR = 10, 16
_LEAST_SIDE = 256
# Dark to bright in even steps of lightness, also in print and to the colour-blind.
_COLORS = np.array(
    [
        (0, 0, 4),
        (40, 11, 84),
        (101, 21, 110),
        (159, 42, 99),
        (212, 72, 66),
        (245, 125, 21),
        (250, 193, 39),
        (252, 255, 164),
    ],
    np.float32,
)
# The scale of all pictures of a prior is the same: it ends at so many times a blind guess.
_TOP = 1.5
_WEIGHT = 0.65

Picture = UInt8[np.ndarray, "h w 3"]


@dataclasses.dataclass(frozen=True)
class Scale:
    """What bits are compared with: those of a blind guess, and of held-out clean faces or None."""

    uniform: float
    heldout: float | None


def draw_heatmap(
    restored: Picture, bits: Float[np.ndarray, "rows columns"], fitted: Fitted, scale: Scale
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The face, the face under the bits of its codes, and a colour bar.

    Args:
        restored: the result, cut as the picture was.
        bits: of the codes over the whole square of the network.
        fitted: how the picture lay in it.
        scale: marks of the bar.
    """
    grow = max(1, -(-_LEAST_SIDE // max(restored.shape[:2])))
    height, width = (side * grow for side in restored.shape[:2])
    face = np.asarray(Image.fromarray(restored).resize((width, height), Image.Resampling.NEAREST))
    spread = _over_picture(bits, fitted)
    spread = np.asarray(Image.fromarray(spread).resize((width, height), Image.Resampling.BILINEAR))
    luma = face.astype(np.float32).mean(axis=-1, keepdims=True)
    shown = _WEIGHT * _color(spread / (_TOP * scale.uniform)) + (1 - _WEIGHT) * luma
    font = ImageFont.load_default(12)
    head, side = 22, 120
    # Room for the bar's labels, however flat the picture is.
    whole = max(height, 120)
    sheet = Image.new(
        "RGB", (2 * width + 3 * _MARGIN + _BAR + side, whole + head + _MARGIN), _PAPER
    )
    pen = ImageDraw.Draw(sheet)
    text = f"{bits.mean():.2f} bits per code"
    pen.text((_MARGIN + width + _MARGIN, 4), text, _INK, font)
    pen.text((_MARGIN, 4), "restored", _FAINT, font)
    sheet.paste(Image.fromarray(face), (_MARGIN, head))
    sheet.paste(Image.fromarray(shown.astype(np.uint8)), (2 * _MARGIN + width, head))
    _draw_bar(sheet, pen, (3 * _MARGIN + 2 * width, head, whole), scale, float(bits.mean()))
    return np.array(sheet)


def _draw_bar(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    place: tuple[int, int, int],
    scale: Scale,
    mean: float,
) -> None:
    """The colours from 0 at the foot to the end of the scale, with its marks."""
    left, top, height = place
    font = ImageFont.load_default(12)
    values = np.linspace(1, 0, height, dtype=np.float32)[:, None].repeat(_BAR, axis=1)
    sheet.paste(Image.fromarray(_color(values).astype(np.uint8)), (left, top))
    end = _TOP * scale.uniform
    marks = [
        (0.0, "0"),
        (end, f"{end:.0f} or more"),
        (scale.uniform, f"{scale.uniform:.1f} blind guess"),
    ]
    if scale.heldout is not None:
        marks.append((scale.heldout, f"{scale.heldout:.1f} clean faces"))
    marks.append((min(mean, end), f"{mean:.1f} this face"))
    line = 14
    wanted = sorted((top + (1 - value / end) * (height - 1), label) for value, label in marks)
    ys = _apart([y for y, _ in wanted], line, top, top + height - 1)
    for (y, label), text_y in zip(wanted, ys, strict=True):
        pen.line((left + _BAR, y, left + _BAR + 3, y, left + _BAR + 8, text_y), _FAINT)
        pen.text((left + _BAR + 11, text_y - 7), label, _INK, font)


def _apart(ys: list[float], line: int, top: int, foot: int) -> list[float]:
    """Rising places moved so that lines of text do not overlap, within the bar."""
    placed = []
    for y in ys:
        placed.append(max(y, placed[-1] + line) if placed else max(y, top))
    limit = float(foot)
    for index in reversed(range(len(placed))):
        placed[index] = min(placed[index], limit)
        limit = placed[index] - line
    return placed


def _over_picture(
    bits: Float[np.ndarray, "rows columns"], fitted: Fitted
) -> Float[np.ndarray, "h w"]:
    """The bits at every pixel of the picture in the square, without its borders."""
    size = fitted.pixels.shape[:2]
    image = Image.fromarray(bits.astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR)
    rows = slice(fitted.top, fitted.top + fitted.height)
    return np.asarray(image)[rows, fitted.left : fitted.left + fitted.width]


def _color(shares: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 3"]:
    """Colours of 0..1, 0..255."""
    steps = np.linspace(0, 1, len(_COLORS))
    return np.stack([np.interp(shares, steps, channel) for channel in _COLORS.T], axis=-1)
