"""Enlargement of whole pictures: by Lanczos, or by RRDBNet in tiles.

Results have the picture's dtype and number of channels. Pixel centres are at half-integers, so that
a result covers exactly the picture's area.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import jax
import numpy as np
from jaxtyping import Array, Float, Float32

from codeformer_jax.faces import models
from codeformer_jax.faces.pixels import LUMA, Pixels, in_levels, to_dtype

# Side and margin of a tile at the resolution of the network's blocks. A network that doubles a
# picture halves it first, so that its tiles are twice as large.
TILE, MARGIN = 400, 64
FACTORS = (2, 4)


def enlarge(picture: Pixels, factor: int) -> Pixels:
    """Enlarges a picture by Lanczos interpolation.

    Args:
        picture: gray or RGB; see `pixels`.
        factor: 2 or 4.

    Raises:
        ValueError: if the factor is another one.
    """
    _check(factor)
    resized = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_LANCZOS4)
    # Lanczos overshoots at edges; OpenCV clips integers.
    return np.clip(resized, 0, 1) if picture.dtype == np.float32 else resized


class NetworkEnlarger:
    """Enlarges pictures by an RRDBNet, tile by tile.

    Every tile is cut with a margin on all sides, and the result's margin is dropped. All tiles of
    large pictures have one size, for which the network is compiled once. At the picture's border a
    tile ends with the picture, so that the network sees there what it would see of the whole
    picture. A picture that is smaller than a tile is mirrored beyond its border, up to the next
    quarter of a tile.

    Tiles equal a run over the whole picture only if the margin is at least `RRDBNet.reach`, 349 px
    for RealESRGAN_x4plus. Measured with it on four portraits of 256 px in four tiles, at the
    result:

    | margin | largest difference | pixels that differ by more than a level of 255 |
    |---|---|---|
    | 10 px, as published | 45 levels | 3.7 to 5.0 % |
    | 32 px | 26 levels | 0.2 to 0.7 % |
    | 48 px | 7 levels | 0.01 to 0.04 % |
    | 64 px | 2 levels | less than 0.001 % |

    Args:
        model: the converted network, which enlarges 2 or 4 times.
        tile: side in pixels of the part of a picture that one run enlarges; by default 400 for a
            network that enlarges four times, and 800, which it halves first, for one that doubles.
        overlap: margin in pixels; by default 64 or 128.

    Raises:
        ValueError: if the network has another scale, or tile or margin do not suit it.
    """

    def __init__(self, model: models.Model, tile: int | None = None, overlap: int | None = None):
        if model.module.scale not in FACTORS:
            raise ValueError(
                f"{model.file or 'RRDBNet'} enlarges {model.module.scale} times; expected a "
                "network that enlarges 2 or 4 times"
            )
        fold = model.module.fold
        tile = TILE * fold if tile is None else tile
        overlap = MARGIN * fold if overlap is None else overlap
        if tile < 1 or overlap < 0 or tile % fold or overlap % fold:
            raise ValueError(
                f"tile={tile} and overlap={overlap}: expected multiples of {fold}, the tile "
                "positive"
            )
        self.model, self.tile, self.overlap = model, tile, overlap

    @classmethod
    def load(cls, path: str | os.PathLike) -> "NetworkEnlarger":
        """Loads the network from a .safetensors file that `codeformer-jax convert` has written.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a model file of RRDBNet, or one of another scale.
        """
        return cls(models.load(path, "rrdbnet"))

    def __call__(self, picture: Pixels, factor: int) -> Pixels:
        """Enlarges a picture.

        A network for x2 runs twice for the factor 4. The tiles of a network for x4 are reduced by
        area for the factor 2.

        Args:
            picture: gray or RGB; see `pixels`.
            factor: 2 or 4.

        Raises:
            ValueError: if the factor is another one, or a tile's result is not finite.
        """
        _check(factor)
        scale = self.model.module.scale
        if factor > scale:
            return self._run(self._run(picture, scale), scale)
        return self._run(picture, factor)

    def _run(self, picture: Pixels, factor: int) -> Pixels:
        """Enlarges a picture by one run of the network, whose scale is at least the factor."""
        height, width = picture.shape[:2]
        result = np.empty((factor * height, factor * width, *picture.shape[2:]), picture.dtype)
        for down in self._tiles(height):
            for across in self._tiles(width):
                tile = self._enlarged(picture, down, across)
                if not np.isfinite(tile).all():
                    raise ValueError(
                        f"the enlargement of rows {down.start} to {down.end - 1} and columns "
                        f"{across.start} to {across.end - 1} has infinities or NaN: the network's "
                        "weights are damaged, or the picture is not finite"
                    )
                place = down.outside(factor), across.outside(factor)
                shape = result[place].shape[1::-1]
                if tile.shape[1::-1] != shape:
                    tile = cv2.resize(np.clip(tile, 0, 1), shape, interpolation=cv2.INTER_AREA)
                tile = tile @ LUMA if picture.ndim == 2 else tile
                result[place] = to_dtype(in_levels(tile, picture.dtype), picture.dtype)
        return result

    def _enlarged(
        self, picture: Pixels, down: "_Tile", across: "_Tile"
    ) -> Float32[np.ndarray, "_ _ 3"]:
        """Returns the network's result for a tile, without the margin."""
        model, scale = self.model, self.model.module.scale
        seen = in_levels(picture[np.ix_(down.seen, across.seen)], np.dtype(np.float32))
        if picture.ndim == 2:
            seen = np.repeat(seen[..., None], 3, axis=-1)
        tile = np.asarray(_enlarge(model.variables, seen, module=model.module))
        return tile[down.inside(scale), across.inside(scale)]

    def _tiles(self, length: int) -> Iterator["_Tile"]:
        """Yields the tiles along an axis of a picture."""
        side, fold = self.tile + 2 * self.overlap, self.model.module.fold
        quarter = math.ceil(side / (4 * fold)) * fold
        side = min(side, math.ceil(length / quarter) * quarter)
        # The network folds pixels from the first on: a run begins at a multiple of `fold`.
        last = max(-(-length // fold) * fold - side, 0)
        count = max(1, math.ceil((length - 2 * self.overlap) / self.tile))
        for i in range(count):
            start = i * self.tile + (self.overlap if i else 0)
            end = length if i == count - 1 else (i + 1) * self.tile + self.overlap
            first = min(i * self.tile, last)
            yield _Tile(start, end, first, _mirrored(np.arange(first, first + side), length))


@dataclasses.dataclass(frozen=True, eq=False)
class _Tile:
    """A tile along one axis.

    Attributes:
        start, end: pixels of the picture that the tile enlarges.
        first: first pixel that the network sees.
        seen: all pixels that the network sees.
    """

    start: int
    end: int
    first: int
    seen: np.ndarray

    def inside(self, scale: int) -> slice:
        """Returns the tile's place in the network's result."""
        return slice(scale * (self.start - self.first), scale * (self.end - self.first))

    def outside(self, scale: int) -> slice:
        """Returns the tile's place in the enlarged picture."""
        return slice(scale * self.start, scale * self.end)


@functools.partial(jax.jit, static_argnames="module")
def _enlarge(
    variables: Mapping[str, Any], pixels: Float[Array, "h w 3"], *, module: Any
) -> Float[Array, "h2 w2 3"]:
    return module.apply(variables, pixels[None])[0]


def _mirrored(places: np.ndarray, length: int) -> np.ndarray:
    """Returns pixels 0 to length - 1 for places that may lie beyond them."""
    places = places % (2 * length)
    return np.minimum(places, 2 * length - 1 - places)


def _check(factor: int) -> None:
    if factor not in FACTORS:
        raise ValueError(f"factor is {factor}; expected 2 or 4")
