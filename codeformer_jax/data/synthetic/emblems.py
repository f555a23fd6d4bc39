"""Ten classes of simple shapes, drawn procedurally: pictures with labels that need no data set."""

from typing import SupportsIndex

import numpy as np
from jaxtyping import UInt8

from codeformer_jax.data.synthetic.shapes import Canvas, cover, polygon
from codeformer_jax.data.synthetic.source import Drawn


def draw_shape(label: int, number: SupportsIndex, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Draws a shape; its class and number determine place, size, angle and colours.

    Args:
        label: 0..9, an index of `SHAPE_CLASSES`.
        number: 0 or more.
        size: side in pixels, at least 16; it fixes the sampling only.

    Returns:
        sRGB uint8 [size, size, 3].
    """
    random = np.random.default_rng((int(number), label))
    back, front = _colours(random)
    place = random.uniform(0.42, 0.58, 2)
    planes = np.empty((3, size, size), np.float32)
    canvas = Canvas.make(planes, (place[0], place[1]), random.uniform(-0.25, 0.25))
    radius = random.uniform(0.22, 0.34)
    x, y = canvas.x, canvas.y
    # A background that brightens along a random direction.
    slope = random.uniform(-0.25, 0.25, 2).astype(np.float32)
    light = 1 + slope[0] * (x - x.mean()) + slope[1] * (y - y.mean())
    planes[...] = back[:, None, None] * light
    scale = np.float32(1 / radius)
    distance = _DISTANCES[SHAPE_CLASSES[label]](x * scale, y * scale) * np.float32(radius)
    canvas.over(front, cover(distance, canvas.px))
    return canvas.picture()


class SyntheticShapes(Drawn):
    """Synthetic shapes; example i is of class i modulo 10.

    `source[i]` is {'image': uint8 [size, size, 3], 'name': 'shapes/train/00000012', 'label': 2},
    the label an index of SHAPE_CLASSES.
    """

    def __getitem__(self, index: SupportsIndex) -> dict:
        identity = self.identity(index)
        number = identity // 2
        label = number % len(SHAPE_CLASSES)
        return {
            "image": draw_shape(label, identity, self.size),
            "name": f"shapes/{self.split}/{number:08d}",
            "label": label,
        }


def _colours(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns two colours [3], one much brighter than the other."""
    dark, bright = random.uniform(0.05, 0.4, 3), random.uniform(0.6, 0.95, 3)
    pair = (dark, bright) if random.random() < 0.5 else (bright, dark)
    return pair[0].astype(np.float32), pair[1].astype(np.float32)


# Signed distances, negative inside, of shapes of radius 1 around the origin; y points down.


def _box(x, y, half_width, half_height, centre=(0.0, 0.0)):
    dx = np.abs(x - np.float32(centre[0])) - np.float32(half_width)
    dy = np.abs(y - np.float32(centre[1])) - np.float32(half_height)
    return np.maximum(dx, dy)


def _two_boxes(x, y, half_width, half_height, centre):
    opposite = (-centre[0], -centre[1])
    boxes = (_box(x, y, half_width, half_height, place) for place in (opposite, centre))
    return np.minimum(*boxes)


def _disc(x, y, radius=1.0, centre=(0.0, 0.0)):
    return np.hypot(x - np.float32(centre[0]), y - np.float32(centre[1])) - np.float32(radius)


def _corners(count, radius=1.0, turn=0.0):
    angles = 2 * np.pi * np.arange(count) / count + turn
    return [(radius * np.sin(a), -radius * np.cos(a)) for a in angles]


def _star(x, y):
    # Each point is a triangle over the pentagon in the middle.
    tips, inner = _corners(5), _corners(5, 0.4, np.pi / 5)
    points = [polygon(x, y, [tips[i], inner[i], inner[i - 1]]) for i in range(5)]
    return np.minimum.reduce([polygon(x, y, inner), *points])


def _arrow(x, y):
    head = polygon(x, y, [(0.0, -1.0), (0.85, 0.0), (-0.85, 0.0)])
    return np.minimum(head, _box(x, y, 0.28, 0.55, (0.0, 0.4)))


# In the order of their labels.
_DISTANCES = {
    "disc": _disc,
    "ring": lambda x, y: np.abs(_disc(x, y, 0.78)) - np.float32(0.2),
    "square": lambda x, y: _box(x, y, 0.8, 0.8),
    "triangle": lambda x, y: polygon(x, y, _corners(3)),
    "star": _star,
    "plus": lambda x, y: np.minimum(_box(x, y, 1.0, 0.28), _box(x, y, 0.28, 1.0)),
    "crescent": lambda x, y: np.maximum(_disc(x, y), -_disc(x, y, 0.85, (0.55, -0.1))),
    "bars": lambda x, y: _two_boxes(x, y, 0.95, 0.25, (0.0, 0.5)),
    "checker": lambda x, y: _two_boxes(x, y, 0.44, 0.44, (0.44, 0.44)),
    "arrow": _arrow,
}
SHAPE_CLASSES = tuple(_DISTANCES)
