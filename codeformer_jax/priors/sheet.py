"""Contact sheet: samples in rows under a title, with their classes beside them."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)
_MARGIN, _GAP, _LINE = 8, 4, 16
# Small pictures are enlarged for the sheet, and many large ones reduced.
_LEAST_CELL, _WIDEST = 96, 4096

Pictures = UInt8[np.ndarray, "_ _ _ 3"]
Picture = UInt8[np.ndarray, "_ _ 3"]


def make_sheet(
    samples: Pictures,
    *,
    title: str,
    classes: Sequence[int] | None = None,
    references: Sequence[tuple[str, Picture]] = (),
) -> Picture:
    """Draws the samples in rows.

    Args:
        samples: pictures of one size.
        title: text above the samples.
        classes: one per sample, equal ones next to each other; each class begins a labelled row.
        references: (caption, picture), each in a row above the samples.

    Returns:
        The sheet.
    """
    groups = _groups(samples, classes)
    columns = _columns(samples, [len(group) for _, group in groups])
    height, width = _cell(samples.shape[1:3], columns)
    rows = [(caption, picture[None]) for caption, picture in references]
    for label, group in groups:
        parts = [group[start : start + columns] for start in range(0, len(group), columns)]
        rows += [(label, parts[0]), *(("", part) for part in parts[1:])]
    font = ImageFont.load_default(12)
    left = _MARGIN + _GAP + round(max(font.getlength(label) for label, _ in rows))
    top = _MARGIN + _LINE + _GAP
    whole = (
        max(left + columns * (width + _GAP), _MARGIN + round(font.getlength(title))) + _MARGIN,
        top + len(rows) * (height + _GAP) + _MARGIN,
    )
    sheet = Image.new("RGB", whole, _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN // 2), title, _FAINT, font)
    for row, (label, pictures) in enumerate(rows):
        y = top + row * (height + _GAP)
        pen.text((_MARGIN, y + (height - _LINE) // 2), label, _INK, font)
        for column, picture in enumerate(pictures):
            sheet.paste(_resized(picture, height, width), (left + column * (width + _GAP), y))
    return np.array(sheet)


def _groups(samples: Pictures, classes: Sequence[int] | None) -> list[tuple[str, Pictures]]:
    if classes is None:
        return [("", samples)]
    classes = np.asarray(classes)
    starts = [0, *(np.flatnonzero(np.diff(classes)) + 1).tolist(), len(classes)]
    return [(f"class {classes[a]}", samples[a:b]) for a, b in itertools.pairwise(starts)]


def _columns(samples: Pictures, sizes: Sequence[int]) -> int:
    """Returns the columns: a row for each of several classes; otherwise a square sheet."""
    height, width = samples.shape[1:3]
    square = math.ceil(math.sqrt(len(samples) * height / width))
    return min(max(sizes), max(square, 1) if len(sizes) == 1 else max(square, 8))


def _cell(size: tuple[int, int], columns: int) -> tuple[int, int]:
    scale = max(1, math.ceil(_LEAST_CELL / max(size)))
    scale = min(scale, _WIDEST / (columns * size[1]))
    return max(8, round(size[0] * scale)), max(8, round(size[1] * scale))


def _resized(picture: Picture, height: int, width: int) -> Image.Image:
    image = Image.fromarray(picture)
    if image.size == (width, height):
        return image
    grows = width > image.width
    method = Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS
    return image.resize((width, height), method)
