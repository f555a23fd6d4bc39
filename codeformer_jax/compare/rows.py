"""Differences of single entries of two traces."""

import dataclasses
import math
from typing import Any

import numpy as np

from codeformer_jax.compare.match import Pair
from codeformer_jax.compare.trace import Entry


@dataclasses.dataclass(frozen=True)
class Row:
    """Differences of one layer between two traces.

    Attributes:
        kind, name: see `Entry`; the name is that of the first trace.
        other: name in the second trace.
        by: how the two were paired: 'name', 'converter' or 'order'.
        shape: shape in the first trace.
        relative_l2: ||a - b|| / ||b||; for codes the share that differs. Infinite for arrays that
            cannot be compared.
        max_abs: largest absolute difference.
        where: its index in the whole array.
        cosine: cosine of the angle between the arrays.
        beyond: share of elements that differ by more than the tolerance times the root mean
            square of b.
        norm_ratio: ||a|| / ||b||.
        distance, norm: ||a - b|| and ||b||.
        nonfinite: numbers of infinities and NaN in a and b.
        agrees: whether `relative_l2` is within the tolerance; codes must be identical.
        note: remark for the reader, or ''.
    """

    kind: str
    name: str
    other: str
    by: str
    shape: tuple[int, ...]
    relative_l2: float
    max_abs: float = math.nan
    where: tuple[int, ...] = ()
    cosine: float = math.nan
    beyond: float = math.nan
    norm_ratio: float = math.nan
    distance: float = math.nan
    norm: float = math.nan
    nonfinite: tuple[int, int] = (0, 0)
    agrees: bool = False
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Flip:
    """A code that differs.

    Attributes:
        name: the entry.
        where: its index.
        codes: the code in each trace.
        margin: lead of the chosen code over the second best, of the first trace if it has one and
            else of the second; NaN if unknown. A lead of logits is their difference; one of
            distances is relative to the second. Near zero it is a near tie, not an error.
    """

    name: str
    where: tuple[int, ...]
    codes: tuple[int, int]
    margin: float


# A gradient's difference below this share of the tolerance times the largest gradient is rounding:
# a bias before a norm, or of attention's keys, has a gradient of zero in exact arithmetic.
_NEGLIGIBLE = 0.1


def compare_pair(found: Pair, tolerance: float, scale: float = 0.0) -> Row:
    """Returns the row of two entries.

    Args:
        found: the entries.
        tolerance: largest relative L2 difference that agrees.
        scale: norm of the largest gradient of this kind; differences far below it agree.
    """
    a, b = found.ours, found.theirs
    row = Row(a.kind, a.name, b.name, found.by, a.shape, math.inf)
    row = dataclasses.replace(row, nonfinite=(a.nonfinite, b.nonfinite))
    x, y, note = aligned(a, b)
    if x is None:
        return dataclasses.replace(row, note=note)
    if a.kind == "code":
        different = np.flatnonzero(x.reshape(-1) != y.reshape(-1))
        share = len(different) / max(x.size, 1)
        return dataclasses.replace(
            row,
            relative_l2=share,
            beyond=share,
            agrees=not len(different),
            note=f"{len(different)} of {x.size} codes differ" if len(different) else note,
        )
    row = dataclasses.replace(
        row, note=note, **_measures(x, y, math.lcm(a.stride, b.stride), tolerance)
    )
    if not row.agrees and row.distance <= _NEGLIGIBLE * tolerance * scale:
        row = dataclasses.replace(row, agrees=True, note="rounding: zero in exact arithmetic")
    return row


def find_flips(found: Pair, margins: dict[str, np.ndarray]) -> list[Flip]:
    """Returns the codes that differ.

    Args:
        found: two entries of kind 'code'.
        margins: {name: margins} of the first trace.
    """
    x, y, _ = aligned(found.ours, found.theirs)
    if x is None:
        return []
    known = margins.get(found.ours.name)
    x, y = x.reshape(found.ours.shape), y.reshape(found.ours.shape)
    return [
        Flip(
            found.ours.name,
            tuple(map(int, where)),
            (int(x[tuple(where)]), int(y[tuple(where)])),
            math.nan if known is None else float(known.reshape(x.shape)[tuple(where)]),
        )
        for where in np.argwhere(x != y)
    ]


def aligned(a: Entry, b: Entry) -> tuple[Any, Any, str]:
    """Returns both arrays on their common grid, and a note; None and a reason if they have none.

    Args:
        a, b: entries. Axes of one element and the order of axes may differ.
    """
    stride = math.lcm(a.stride, b.stride)
    x, y = (_every(e.array, stride // e.stride) for e in (a, b))
    if a.shape == b.shape:
        return x, y, ""
    listed = f"{list(a.shape)} and {list(b.shape)}"
    if a.kind == "code" and x.size == y.size:
        return x, y.reshape(x.shape), ""
    if [n for n in a.shape if n != 1] == [n for n in b.shape if n != 1]:
        return x, y.reshape(x.shape), f"shapes {listed}"
    axes = [b.shape.index(n) for n in a.shape if n in b.shape]
    if stride == 1 and sorted(axes) == list(range(len(a.shape))) == list(range(len(b.shape))):
        return x, y.transpose(axes), f"shapes {listed}: axes put into order {axes}"
    return None, None, f"shapes differ: {listed}"


def _every(array: np.ndarray, stride: int) -> np.ndarray:
    return array[..., ::stride, ::stride] if stride > 1 else array


def _measures(x: np.ndarray, y: np.ndarray, stride: int, tolerance: float) -> dict[str, Any]:
    x, y = x.astype(np.float64), y.astype(np.float64)
    norm_x, norm_y = (float(np.linalg.norm(v.reshape(-1))) for v in (x, y))
    difference = np.abs(x - y)
    distance = float(np.linalg.norm(difference.reshape(-1)))
    relative = distance / norm_y if norm_y else (math.inf if distance else 0.0)
    where = np.unravel_index(np.argmax(difference), x.shape) if x.size else ()
    where = tuple(int(i) for i in where)
    if stride > 1:
        where = (*where[:-2], *(stride * i for i in where[-2:]))
    product = norm_x * norm_y
    allowed = tolerance * norm_y / math.sqrt(max(y.size, 1))
    return {
        "relative_l2": relative,
        "max_abs": float(difference.max(initial=0.0)),
        "where": where,
        "cosine": float(np.vdot(x, y)) / product if product else math.nan,
        "beyond": float(np.mean(~(difference <= allowed))) if x.size else 0.0,
        "norm_ratio": norm_x / norm_y if norm_y else math.nan,
        "distance": distance,
        "norm": norm_y,
        "agrees": bool(relative <= tolerance),
    }
