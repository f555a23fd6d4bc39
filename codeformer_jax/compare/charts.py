"""Chart of the growth of the difference with depth, by matplotlib."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from codeformer_jax.compare.rows import Row
from codeformer_jax.system.figures import QUIET, new_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINE, _AGREES, _DIFFERS = "#4a86c8", "#2f9560", "#d0503f"
_LOWEST = 1e-9  # Smaller differences, which may be zero, are drawn here.
_MOST_GROUPS = 24


def depth_chart(rows: Sequence[Row], tolerance: float, below: str) -> "Figure":
    """Draws the relative L2 difference of each row, in their order, on a logarithmic scale.

    Rows without a finite difference are crosses at the top.

    Args:
        rows: rows in execution order, or another order that means something.
        tolerance: drawn as a line.
        below: text of the horizontal axis.
    """
    axes = new_axes(below, "relative L2 difference", (9.0, 3.4))
    finite = [r.relative_l2 for r in rows if math.isfinite(r.relative_l2)]
    top = 10 * max([*finite, tolerance, _LOWEST])
    values = [
        max(r.relative_l2, _LOWEST) if math.isfinite(r.relative_l2) else math.nan for r in rows
    ]
    axes.set_yscale("log")
    axes.plot(values, color=_LINE, linewidth=1)
    for agrees, color, name in ((True, _AGREES, "agrees"), (False, _DIFFERS, "differs")):
        at = [i for i, row in enumerate(rows) if row.agrees is agrees and math.isfinite(values[i])]
        if at:
            axes.plot(at, [values[i] for i in at], ".", color=color, markersize=5, label=name)
    broken = [i for i, value in enumerate(values) if math.isnan(value)]
    if broken:
        name = "not comparable or not finite"
        axes.plot(broken, [top / 2] * len(broken), "x", color=_DIFFERS, label=name)
    if tolerance > 0:
        axes.axhline(tolerance, color=QUIET, linewidth=1, linestyle="--", label="tolerance")
    first = next((i for i, row in enumerate(rows) if not row.agrees), None)
    if first is not None:
        axes.axvline(first, color=_DIFFERS, linewidth=1, alpha=0.6)
        right = first > len(rows) / 2
        axes.annotate(
            rows[first].name,
            (first, top),
            (-4 if right else 4, -4),
            textcoords="offset points",
            ha="right" if right else "left",
            va="top",
            color=_DIFFERS,
            fontsize=8,
        )
    axes.set_ylim(_LOWEST / 2, top)
    _mark_groups(axes, rows)
    axes.figure.legend(
        frameon=False, labelcolor=QUIET, fontsize=8, loc="outside upper right", ncols=4
    )
    return axes.figure


def _mark_groups(axes, rows: Sequence[Row]) -> None:
    """Labels places where the first part of the names changes, unless they are too close."""
    heads = [row.name.split(".")[0].split("#")[0] for row in rows]
    labelled: list[int] = []
    for i, head in enumerate(heads):
        changes = not i or head != heads[i - 1]
        if changes and (not labelled or i - labelled[-1] >= len(rows) / _MOST_GROUPS):
            labelled.append(i)
    axes.set_xticks(labelled, [heads[i] for i in labelled], rotation=30, ha="right", fontsize=8)
