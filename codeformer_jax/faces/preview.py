"""Preview of a picture's faces, with the numbers by which they are chosen."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from codeformer_jax.faces.choose import Choice
from codeformer_jax.faces.face import resize_points
from codeformer_jax.faces.pixels import Pixels, to_rgb8

# Least and largest longest side of a preview in pixels: labels are readable at both.
SIDES = (800, 2000)
_CHOSEN, _LEFT, _POINT = (40, 220, 90), (255, 140, 0), (255, 255, 255)
_LINE, _LABEL = 1 / 400, 1 / 50  # Width of lines and height of labels, in longest sides.


def draw_preview(picture: Pixels, choices: Sequence[Choice]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Draws box, points and number of every face, and the reason of those left out.

    Args:
        picture: gray or RGB; see `pixels`.
        choices: from `choose`.

    Returns:
        RGB; resized so that the longest side is within `SIDES`.
    """
    longest = max(picture.shape[:2])
    ratio = np.clip(longest, *SIDES) / longest
    shape = tuple(max(1, round(length * ratio)) for length in picture.shape[1::-1])
    ratios = np.array(shape) / picture.shape[1::-1]
    interpolation = cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC
    image = Image.fromarray(to_rgb8(cv2.resize(picture, shape, interpolation=interpolation)))
    # Chosen faces last, so that no other covers their labels.
    for choice in sorted(choices, key=lambda choice: choice.reason is None):
        _draw(image, choice, ratios)
    return np.array(image)


def _draw(image: Image.Image, choice: Choice, ratio: Float[np.ndarray, "2"]) -> None:
    draw = ImageDraw.Draw(image)
    longest = max(image.size)
    line = max(2, round(longest * _LINE))
    colour = _CHOSEN if choice.reason is None else _LEFT
    box = resize_points(np.reshape(choice.face.box, (2, 2)), ratio)
    left, top, right, bottom = box.ravel().tolist()
    draw.rectangle((left, top, right, bottom), outline=colour, width=line)
    dot = max(1, min(line, (right - left) / 20))
    for x, y in resize_points(choice.face.points, ratio).tolist():
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
