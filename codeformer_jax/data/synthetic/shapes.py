"""Anti-aliased shapes on a canvas: signed distances, coverage and compositing.

Lengths are fractions of the side of a square picture, or of another unit, so a shape is the same at
every size. Distances are
negative inside. Pictures are float32 planes [3, rows, columns] in [0, 1].
"""

import dataclasses

import numpy as np

Number = float | int | np.floating

TURN = np.linspace(-np.pi, np.pi, 256, endpoint=False)  # Angles of an outline's radii.
_SMOOTH = 9.0  # Degrees over which an outline through points is smoothed.


@dataclasses.dataclass(frozen=True)
class Canvas:
    """A picture, or a window of one, with the coordinates of its pixels in a frame of its own.

    Attributes:
        planes: [3, h, w], painted in place.
        x, y: [h, w], the centres of the pixels.
        px: the side of a pixel.
        origin: place of the frame in the picture, from its top left corner.
        roll: angle of the frame in radians.
        window: rows and columns in the whole picture.
    """

    planes: np.ndarray
    x: np.ndarray
    y: np.ndarray
    px: Number
    origin: tuple[Number, Number]
    roll: Number
    window: tuple[slice, slice] = (slice(None), slice(None))

    @classmethod
    def make(
        cls,
        planes: np.ndarray,
        origin: tuple[Number, Number],
        roll: Number = 0.0,
        unit: Number | None = None,
    ) -> "Canvas":
        """Returns a frame in a picture.

        Args:
            planes, origin, roll: as the attributes.
            unit: pixels of a unit of length; None for the picture's width.
        """
        height, width = planes.shape[1:]
        unit = width if unit is None else unit
        columns, rows = (
            (np.arange(length, dtype=np.float32) + np.float32(0.5)) / np.float32(unit)
            for length in (width, height)
        )
        x, y = columns[None, :] - np.float32(origin[0]), rows[:, None] - np.float32(origin[1])
        cos, sin = np.float32(np.cos(roll)), np.float32(np.sin(roll))
        return cls(planes, cos * x + sin * y, cos * y - sin * x, 1.0 / unit, origin, roll)

    def box(self, left: Number, top: Number, right: Number, bottom: Number) -> "Canvas":
        """Returns the pixels of a whole picture that a box of this frame can touch."""
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        corners = [(x, y) for x in (left, right) for y in (top, bottom)]
        columns = [self.origin[0] + cos * x - sin * y for x, y in corners]
        rows = [self.origin[1] + sin * x + cos * y for x, y in corners]
        unit = 1 / self.px

        def span(values: list[Number], length: int) -> slice:
            low = int(np.floor(min(values) * unit)) - 1
            high = int(np.ceil(max(values) * unit)) + 1
            return slice(min(max(low, 0), length), min(max(high, 0), length))

        window = span(rows, self.planes.shape[1]), span(columns, self.planes.shape[2])
        return dataclasses.replace(
            self,
            planes=self.planes[:, *window],
            x=self.x[window],
            y=self.y[window],
            window=window,
        )

    def over(self, colour, alpha: np.ndarray) -> None:
        """Blends a colour over the picture.

        Args:
            colour: [3], or [3, h, w].
            alpha: opacity [h, w], 0..1.
        """
        paint = np.asarray(colour, np.float32)
        if paint.ndim == 1:
            paint = paint[:, None, None]
        self.planes[...] += alpha * (paint - self.planes)

    def darken(self, amount: np.ndarray, tint=(1.0, 1.1, 1.15)) -> None:
        """Multiplies the picture by 1 - amount * tint.

        Args:
            amount: [h, w], 0..1.
            tint: factors of the channels; the default keeps shadows on skin warm.
        """
        self.planes[...] *= 1 - amount * np.asarray(tint, np.float32)[:, None, None]

    def picture(self) -> np.ndarray:
        """Returns uint8 [h, w, 3]."""
        picture = np.clip(self.planes * 255 + 0.5, 0, 255).astype(np.uint8)
        return np.ascontiguousarray(picture.transpose(1, 2, 0))


@dataclasses.dataclass(frozen=True)
class Outline:
    """A closed, star-shaped curve: radii [n] at equal angles from straight down, around (0, y)."""

    y: Number
    radii: np.ndarray
    slopes: np.ndarray

    @classmethod
    def through(cls, points: list[tuple[Number, Number]], centre_y: Number) -> "Outline":
        """Returns a smooth curve near the points of its right half, listed from bottom to top."""
        angles = np.array([np.arctan2(x, y - centre_y) for x, y in points])
        radii = np.array([np.hypot(x, y - centre_y) for x, y in points])
        radii = np.interp(np.abs(TURN), angles, radii)
        orders = np.fft.rfftfreq(256, 1 / 256)
        low_pass = np.exp(-((orders * np.pi / 180 * _SMOOTH) ** 2) / 2)
        return cls.from_radii(centre_y, np.fft.irfft(np.fft.rfft(radii) * low_pass, 256))

    @classmethod
    def from_radii(cls, y: Number, radii: np.ndarray) -> "Outline":
        slopes = (np.roll(radii, -1) - np.roll(radii, 1)) * (256 / (4 * np.pi)) / radii
        steep = 1 / np.sqrt(1 + slopes**2)
        return cls(y, radii.astype(np.float32), steep.astype(np.float32))

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        dy = y - np.float32(self.y)
        place = (np.arctan2(x, dy) + np.float32(np.pi)) * np.float32(256 / (2 * np.pi))
        low = place.astype(np.int32)
        part = place - low.astype(np.float32)
        low &= 255
        high = (low + 1) & 255
        radius = self.radii[low] * (1 - part) + self.radii[high] * part
        return (np.sqrt(x * x + dy * dy) - radius) * self.slopes[low]


def _unit(value: np.ndarray) -> np.ndarray:
    # Half the overhead of np.clip, which shows in small windows.
    return np.minimum(np.maximum(value, 0), 1)


def cover(distance: np.ndarray, px: Number, soft: Number = 0.0) -> np.ndarray:
    """Returns the share of each pixel that lies inside a shape, 0..1.

    Args:
        distance: of the pixels to the edge, negative inside.
        px: length of a pixel.
        soft: width of the edge, if more than a pixel.
    """
    return _unit(np.float32(0.5) - distance * np.float32(1 / max(px, soft)))


def band(distance: np.ndarray, half: np.ndarray | Number, px: Number, soft: Number = 0.0):
    """Returns the share of each pixel that a line covers, 0..1.

    Args:
        distance: of the pixels to the middle of the line.
        half: half the width of the line.
        px, soft: as in `cover`.
    """
    sharp = np.float32(1 / max(px, soft))
    distance, half = distance * sharp, half * sharp + np.float32(0.5)
    return _unit(half - distance) + _unit(half + distance) - 1


def polygon(x: np.ndarray, y: np.ndarray, points: list[tuple[Number, Number]]) -> np.ndarray:
    """Returns the distance to a convex polygon, negative inside.

    Args:
        x, y: coordinates of the pixels.
        points: corners, clockwise on the screen.
    """
    sides = []
    for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
        length = np.hypot(bx - ax, by - ay)
        nx, ny = np.float32((by - ay) / length), np.float32((ax - bx) / length)
        sides.append((x - np.float32(ax)) * nx + (y - np.float32(ay)) * ny)
    return np.maximum.reduce(sides)


def melt(first: np.ndarray, second: np.ndarray, radius: Number) -> np.ndarray:
    """Returns the union of two shapes with a rounded seam (Quilez' polynomial smooth minimum).

    Args:
        first, second: distances to the shapes.
        radius: of the seam.
    """
    near = np.maximum(np.float32(radius) - np.abs(first - second), 0)
    return np.minimum(first, second) - near * near * np.float32(0.25 / radius)


def step(low: Number, high: Number, value: np.ndarray) -> np.ndarray:
    """Returns 0 below `low`, 1 above `high` and a smooth value between.

    Args:
        low, high: the two ends; `low` may be the larger one.
        value: the argument.
    """
    t = _unit((value - np.float32(low)) * np.float32(1 / (high - low)))
    return t * t * (3 - 2 * t)


def blob(
    x: np.ndarray, y: np.ndarray, centre: tuple[Number, Number], sx: Number, sy: Number
) -> np.ndarray:
    """Returns a soft spot of height 1: exp(-(dx/sx)^2 - (dy/sy)^2).

    Args:
        x, y: coordinates of the pixels.
        centre: (x, y) of the spot.
        sx, sy: its widths.
    """
    dx = (x - np.float32(centre[0])) * np.float32(1 / sx)
    dy = (y - np.float32(centre[1])) * np.float32(1 / sy)
    return np.exp(-(dx * dx + dy * dy))
