"""Preview of a picture's faces, with the numbers by which they are chosen."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image, ImageDraw, ImageFont

from codeformer_jax.faces.choose import Choice

# Least and largest longest side of a preview in pixels: labels are readable at both.
SIDES = (800, 2000)
_CHOSEN, _LEFT, _POINT = (40, 220, 90), (255, 140, 0), (255, 255, 255)
_LINE, _LABEL = 1 / 400, 1 / 50  # Width of lines and height of labels, in longest sides.

Pixels = UInt8[np.ndarray, "h w *c"] | UInt16[np.ndarray, "h w *c"]


def draw_preview(picture: Pixels, choices: Sequence[Choice]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Draws box, points and number of every face, and the reason of those left out.

    Args:
        picture: gray [h, w] or RGB [h, w, 3].
        choices: from `choose`.

    Returns:
        RGB; resized so that the longest side is within `SIDES`.
    """
    if picture.dtype == np.uint16:
        picture = (picture >> 8).astype(np.uint8)
    longest = max(picture.shape[:2])
    ratio = np.clip(longest, *SIDES) / longest
    shape = tuple(max(1, round(length * ratio)) for length in picture.shape[1::-1])
    ratios = np.array(shape) / picture.shape[1::-1]
    method = cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC
    picture = cv2.resize(np.ascontiguousarray(picture), shape, interpolation=method)
    image = Image.fromarray(picture).convert("RGB")
    # Chosen faces last, so that no other covers their labels.
    for choice in sorted(choices, key=lambda choice: choice.reason is None):
        _draw(image, choice, ratios)
    return np.array(image)


def _draw(image: Image.Image, choice: Choice, ratio: np.ndarray) -> None:
    draw = ImageDraw.Draw(image)
    longest = max(image.size)
    line = max(2, round(longest * _LINE))
    colour = _CHOSEN if choice.reason is None else _LEFT
    box = (np.reshape(choice.face.box, (2, 2)) + 0.5) * ratio - 0.5
    left, top, right, bottom = box.ravel().tolist()
    draw.rectangle((left, top, right, bottom), outline=colour, width=line)
    dot = max(1, min(line, (right - left) / 20))
    for x, y in ((choice.face.points + 0.5) * ratio - 0.5).tolist():
        draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=_POINT, outline=colour)
    text = str(choice.number) if choice.reason is None else f"{choice.number}: {choice.reason}"
    font = ImageFont.load_default(max(20, longest * _LABEL))
    _, _, width, height = draw.textbbox((0, 0), text, font=font)
    # Above the box, or inside it at the upper border; within the picture in any case.
    width, height = width + 4 * line, height + 2 * line
    top = top - height if top >= height else max(top, 0)
    x = min(max(left, 0), max(image.width - width, 0))
    y = min(top, max(image.height - height, 0))
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + 2 * line, y + line), text, font=font, fill=(0, 0, 0))
