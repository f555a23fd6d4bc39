"""Restored crops pasted back into their picture, in place.

Only the pixels that a crop covers are read and written, tile by tile. With `r` the restored crop,
`f` the same crop of the original picture `o`, and `k` the share of detail that is kept (see
`detail`), a face becomes

    warp(r) + warp(k) (o - warp(f))

where `o - warp(f)` is what the crop does not hold. Where the network returns its input, the picture
stays equal bit for bit. A face larger than the crop that is sharp enough needs no network: the
`sharpness` of its patch, `a`, is the share of `o` in the result, and the above has the share
`1 - a`. With `m` the mask and `c` the picture so far, in which earlier faces are pasted, the result
is

    (1 - warp(m)) c + warp(m (1 - a) (r - k f)) + warp(m (a + (1 - a) k)) o

in which crops are multiplied by their mask before they are warped, as is usual in compositing.
"""

import collections.abc
import dataclasses

import cv2
import numpy as np
from jaxtyping import Float32

from codeformer_jax.faces.align import (
    COARSE_REACH,
    REACH,
    Rectangle,
    box_region,
    cut_region,
    prepare,
    shifted,
    source_region,
    warp,
)
from codeformer_jax.faces.detail import kept_detail
from codeformer_jax.faces.face import Transform, invert, scale_of
from codeformer_jax.faces.pixels import Pixels, in_levels, to_dtype, top_level

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
        sharpness: share of the original picture in the crop, in [0, 1]; see `faces.sharpness`.
    """

    transform: Transform
    restored: Pixels
    mask: Float32[np.ndarray, "s s"]
    sharpness: float = 0.0


def paste(
    picture: Pixels, patches: collections.abc.Sequence[Patch], *, detail: bool = True
) -> None:
    """Pastes patches into a picture, in place.

    Args:
        picture: uint8, uint16 or float32 0..1, [h, w] or [h, w, 3].
        patches: the first one is the rearmost.
        detail: keep the original picture by each patch's sharpness, and detail finer than the
            crop's pixels where the network kept the crop's finest structure.

    Raises:
        ValueError: a patch does not fit the picture or is not finite; nothing was pasted then.
    """
    for number, patch in enumerate(patches):
        _check(picture, patch, number)
    places: list[_Place] = []
    for patch in patches:
        read = source_region(patch.transform, patch.mask.shape[0], picture.shape)
        later = any(_overlap(read, place.extent) for place in places)
        # An earlier patch changes these pixels before this one's turn.
        original = picture[read].copy() if later and detail else None
        places.append(_Place(extent(patch, picture.shape), read, original))
    for patch, place in zip(patches, places, strict=True):
        _paste(picture, patch, place, detail=detail)


@dataclasses.dataclass(frozen=True, eq=False)
class _Place:
    """Pixels that a patch changes, those that its crop reads, and a copy of them if needed."""

    extent: Rectangle
    read: Rectangle
    original: Pixels | None

    def of_original(self, tile: Rectangle) -> Pixels:
        """Returns the original pixels of a part of the picture."""
        (rows, columns), top, left = tile, self.read[0].start, self.read[1].start
        rows = slice(rows.start - top, rows.stop - top)
        return self.original[rows, columns.start - left : columns.stop - left]


def _paste(picture: Pixels, patch: Patch, place: _Place, *, detail: bool) -> None:
    pasted, mask = in_levels(patch.restored, picture.dtype), patch.mask
    kept = np.zeros_like(mask)
    if detail:
        source = picture[place.read] if place.original is None else place.original
        moved = shifted(patch.transform, place.read[1].start, place.read[0].start)
        reference = cut_region(source, moved, mask.shape[0]).astype(np.float32)
        white = float(top_level(picture.dtype))
        kept = kept_detail(pasted, reference, scale_of(patch.transform), white)
        sharp = np.float32(patch.sharpness)
        pasted = (1 - sharp) * (pasted - _wide(kept, picture) * reference)
        kept = sharp + (1 - sharp) * kept
    masks = np.stack([mask, mask * kept], axis=-1)
    sources = [_prepared(source, patch) for source in (pasted * _wide(mask, picture), masks)]
    for tile in tiles(place.extent):
        result, masks = _warped(sources, tile)
        covered, finer = masks[..., 0], masks[..., 1]
        if not covered.any():
            continue
        current = picture[tile]
        original = current if place.original is None else place.of_original(tile)
        # In this order it is exact where nothing has changed.
        result += _wide(finer, picture) * original - _wide(covered, picture) * current
        result += current
        picture[tile] = to_dtype(result, picture.dtype)


def _wide(mask: Float32[np.ndarray, "h w"], picture: Pixels) -> Float32[np.ndarray, "h w *c"]:
    """Returns a mask that multiplies a part of a picture, gray or RGB."""
    return mask if picture.ndim == 2 else mask[..., None]


def extent(patch: Patch, shape: tuple[int, ...]) -> Rectangle:
    """Returns the rows and columns that a patch's mask reaches in a picture of a shape."""
    rows, columns = (np.flatnonzero(patch.mask.any(axis)) for axis in (1, 0))
    if rows.size == 0:
        return slice(0, 0), slice(0, 0)
    margin = REACH + COARSE_REACH * scale_of(patch.transform)
    edge = patch.mask.shape[0] - 0.5
    low = [max(float(side[0]) - margin, -0.5) for side in (columns, rows)]
    high = [min(float(side[-1]) + margin, edge) for side in (columns, rows)]
    return box_region(patch.transform, (*low, *high), shape)


def mask_in(patch: Patch, rectangle: Rectangle) -> Float32[np.ndarray, "_ _"]:
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
