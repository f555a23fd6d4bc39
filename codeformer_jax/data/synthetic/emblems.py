"""Ten classes of simple shapes, drawn procedurally: pictures with labels that need no data set."""

import dataclasses
import operator
from typing import SupportsIndex

import numpy as np
from jaxtyping import UInt8

from codeformer_jax.data.synthetic.render import check_size, is_whole
from codeformer_jax.data.synthetic.shapes import Grid, cover, over, polygon

SHAPE_CLASSES = (
    "disc",
    "ring",
    "square",
    "triangle",
    "star",
    "plus",
    "crescent",
    "bars",
    "checker",
    "arrow",
)
SHAPES_PER_SEED = 2**20
_PARITY = {"train": 0, "heldout": 1}
_EVERYWHERE = (slice(None), slice(None))


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
    grid = Grid.make(size, (place[0], place[1]), random.uniform(-0.25, 0.25))
    radius = random.uniform(0.22, 0.34)
    planes = np.empty((3, size, size), np.float32)
    # A background that brightens along a random direction.
    slope = random.uniform(-0.25, 0.25, 2).astype(np.float32)
    light = 1 + slope[0] * (grid.x - grid.x.mean()) + slope[1] * (grid.y - grid.y.mean())
    planes[...] = back[:, None, None] * light
    scale = np.float32(1 / radius)
    distance = _DISTANCES[label](grid.x * scale, grid.y * scale) * np.float32(radius)
    over(planes, _EVERYWHERE, front, cover(distance, grid.px))
    picture = np.clip(planes * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(picture.transpose(1, 2, 0))


@dataclasses.dataclass(frozen=True)
class SyntheticShapes:
    """Shapes of one split, drawn when they are read; example i is of class i modulo 10.

    `source[i]` is {'image': uint8 [size, size, 3], 'name': 'shapes/train/00000012', 'label': 2},
    the label an index of SHAPE_CLASSES.

    Attributes:
        split: 'train' or 'heldout'; no picture is in both, at any seed.
        size: side in pixels, at least 16.
        length: number of pictures; None is SHAPES_PER_SEED, the maximum.
        seed: selects SHAPES_PER_SEED pictures of the split; different seeds share none.

    Raises:
        ValueError: a field is out of range.
    """

    split: str
    size: int
    length: int | None = None
    seed: int = 0

    def __post_init__(self):
        if self.split not in _PARITY:
            raise ValueError(f"split is {self.split!r}; choose one of {', '.join(_PARITY)}")
        check_size(self.size)
        if self.length is not None and not (
            is_whole(self.length) and 0 <= self.length <= SHAPES_PER_SEED
        ):
            raise ValueError(
                f"length is {self.length!r}; give an integer from 0 to {SHAPES_PER_SEED}, "
                "or None for all of them"
            )
        if not is_whole(self.seed) or self.seed < 0:
            raise ValueError(f"seed is {self.seed!r}; give an integer of 0 or more")

    def __len__(self) -> int:
        return SHAPES_PER_SEED if self.length is None else int(self.length)

    def __getitem__(self, index: SupportsIndex) -> dict:
        place = operator.index(index)
        if not 0 <= place < len(self):
            holds = f"has pictures 0 to {len(self) - 1}" if len(self) else "is empty"
            raise IndexError(f"index is {place}; this source {holds}")
        number = int(self.seed) * SHAPES_PER_SEED + place
        label = number % len(SHAPE_CLASSES)
        return {
            "image": draw_shape(label, 2 * number + _PARITY[self.split], self.size),
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


def _checker(x, y):
    squares = [_box(x, y, 0.44, 0.44, (s * 0.44, s * 0.44)) for s in (-1.0, 1.0)]
    return np.minimum(*squares)


_DISTANCES = (
    _disc,
    lambda x, y: np.abs(_disc(x, y, 0.78)) - np.float32(0.2),
    lambda x, y: _box(x, y, 0.8, 0.8),
    lambda x, y: polygon(x, y, _corners(3)),
    _star,
    lambda x, y: np.minimum(_box(x, y, 1.0, 0.28), _box(x, y, 0.28, 1.0)),
    lambda x, y: np.maximum(_disc(x, y), -_disc(x, y, 0.85, (0.55, -0.1))),
    lambda x, y: np.minimum(_box(x, y, 0.95, 0.25, (0, -0.5)), _box(x, y, 0.95, 0.25, (0, 0.5))),
    _checker,
    _arrow,
)
