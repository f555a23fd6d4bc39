"""Restored crops pasted back into their picture, in place.

Only the pixels that a crop covers are read and written, tile by tile. By default a crop contributes
what the network changed: the difference between the restored crop and the same crop of the picture.
So what the network keeps, the picture keeps, to the bit, with its detail finer than the crop's
pixels.

Differences are multiplied by their mask before they are warped, as is usual in compositing. With
`o` the original picture, `c` the picture so far, `m` the mask and `d` the difference, the result is

    c + warp(m d) - warp(m) (c - o)

whose last term matters only where an earlier face lies under this one.
"""

import collections.abc
import dataclasses

import cv2
import numpy as np
from jaxtyping import Float32

from codeformer_jax.faces.align import (
    COARSE_REACH,
    REACH,
    Pixels,
    Rectangle,
    box_region,
    cut_region,
    in_levels,
    prepare,
    region,
    scaled,
    shifted,
    source_region,
    to_dtype,
    warp,
)
from codeformer_jax.faces.face import Transform, invert, scale_of

__all__ = ["Patch", "paste", "region", "scaled"]

# Side of the tiles that are warped at once. It bounds memory, and OpenCV refuses 32768 and more.
_TILE = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class Patch:
    """A restored crop and its place.

    Attributes:
        transform: similarity from the picture that it is pasted into to the crop.
        restored: the network's result, [s, s] or [s, s, 3] as the picture: uint8, uint16 or
            float32 0..1, whatever the picture's dtype.
        mask: share of the crop in the result, in [0, 1], zero at the border.
    """

    transform: Transform
    restored: Pixels
    mask: Float32[np.ndarray, "s s"]


def paste(
    picture: Pixels, patches: collections.abc.Sequence[Patch], *, detail: bool = True
) -> None:
    """Pastes patches into a picture, in place.

    Args:
        picture: uint8, uint16 or float32 0..1, [h, w] or [h, w, 3].
        patches: the first one is the rearmost.
        detail: add the difference that the network made, so that detail finer than the crop's
            pixels survives; otherwise replace the picture by the crop.

    Raises:
        ValueError: a patch does not fit the picture or is not finite; nothing was pasted then.
    """
    for number, patch in enumerate(patches):
        _check(picture, patch, number)
    places: list[_Place] = []
    for patch in patches:
        read = source_region(patch.transform, patch.mask.shape[0], picture.shape)
        later = any(_overlap(read, place.painted) for place in places)
        # An earlier patch changes these pixels before this one's turn.
        original = picture[read].copy() if later and detail else None
        places.append(_Place(painted(patch, picture.shape), read, original))
    for patch, place in zip(patches, places, strict=True):
        _paste(picture, patch, place, detail=detail)


@dataclasses.dataclass(frozen=True, eq=False)
class _Place:
    """Pixels that a patch changes, those that its crop reads, and a copy of them if needed."""

    painted: Rectangle
    read: Rectangle
    original: Pixels | None

    def of_original(self, tile: Rectangle) -> Pixels:
        """Returns the original pixels of a part of the picture."""
        (rows, columns), top, left = tile, self.read[0].start, self.read[1].start
        rows = slice(rows.start - top, rows.stop - top)
        return self.original[rows, columns.start - left : columns.stop - left]


def _paste(picture: Pixels, patch: Patch, place: _Place, *, detail: bool) -> None:
    change = in_levels(patch.restored, picture.dtype)
    if detail:
        source = picture[place.read] if place.original is None else place.original
        moved = shifted(patch.transform, place.read[1].start, place.read[0].start)
        change = change - cut_region(source, moved, patch.mask.shape[0])
    sources = [change * (patch.mask if picture.ndim == 2 else patch.mask[..., None])]
    # Without an earlier face under this one, the picture so far is the original.
    alone = detail and place.original is None
    if not alone:
        sources.append(patch.mask)
    sources = [_prepared(source, patch) for source in sources]
    for tile in tiles(place.painted):
        warped = _warped(sources, tile)
        if not any(array.any() for array in warped):
            continue
        result, current = warped[0], picture[tile]
        result += current
        if not alone:
            replaced = current.astype(np.float32)
            if detail:
                replaced -= place.of_original(tile)
            amount = np.clip(warped[1], 0, 1)
            result -= (amount if picture.ndim == 2 else amount[..., None]) * replaced
        picture[tile] = to_dtype(result, picture.dtype)


def painted(patch: Patch, shape: tuple[int, ...]) -> Rectangle:
    """Returns the rows and columns that a patch's mask reaches in a picture of a shape."""
    rows, columns = (np.flatnonzero(patch.mask.any(axis)) for axis in (1, 0))
    if rows.size == 0:
        return slice(0, 0), slice(0, 0)
    margin = REACH + COARSE_REACH * scale_of(patch.transform)
    edge = patch.mask.shape[0] - 0.5
    low = [max(float(side[0]) - margin, -0.5) for side in (columns, rows)]
    high = [min(float(side[-1]) + margin, edge) for side in (columns, rows)]
    return box_region(patch.transform, (*low, *high), shape)


def share(patch: Patch, rectangle: Rectangle) -> Float32[np.ndarray, "_ _"]:
    """Returns a patch's mask as it lies in a part of the picture; at most 32767 px wide."""
    return np.clip(_warped([_prepared(patch.mask, patch)], rectangle)[0], 0, 1)


def tiles(rectangle: Rectangle) -> collections.abc.Iterator[Rectangle]:
    """Yields the parts of a rectangle that are worked on at once."""
    rows, columns = rectangle
    for top in range(rows.start, rows.stop, _TILE):
        for left in range(columns.start, columns.stop, _TILE):
            bottom, right = min(top + _TILE, rows.stop), min(left + _TILE, columns.stop)
            yield slice(top, bottom), slice(left, right)


_Prepared = tuple[Float32[np.ndarray, "_ _ ..."], Transform]


def _prepared(square: Float32[np.ndarray, "_ _ ..."], patch: Patch) -> _Prepared:
    return prepare(square, invert(patch.transform), cv2.BORDER_CONSTANT)


def _warped(sources: list[_Prepared], rectangle: Rectangle) -> list[np.ndarray]:
    rows, columns = rectangle
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    origin = np.array([[0, 0, columns.start], [0, 0, rows.start]])
    return [warp(source, t - origin, shape, cv2.BORDER_CONSTANT) for source, t in sources]


def _overlap(first: Rectangle, second: Rectangle) -> bool:
    return all(
        max(a.start, b.start) < min(a.stop, b.stop) for a, b in zip(first, second, strict=True)
    )


def _check(picture: Pixels, patch: Patch, number: int) -> None:
    size = patch.mask.shape[0]
    expected = (size, size, *picture.shape[2:])
    if patch.restored.shape != expected:
        raise ValueError(
            f"patch {number}: the crop is {list(patch.restored.shape)}, expected {list(expected)} "
            f"for a mask of {size} px and a picture {list(picture.shape)}"
        )
    if not np.isfinite(patch.restored).all():
        raise ValueError(f"patch {number}: the restored crop has non-finite pixels")
