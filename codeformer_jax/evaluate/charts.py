"""Charts of an evaluation, by matplotlib."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from codeformer_jax.system.figures import QUIET, new_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Readable on white and on black paper.
_BAR, _LINE, _BETTER, _WORSE = "#4a86c8", "#d9822b", "#2f9560", "#d0503f"


def gain_chart(gain: np.ndarray, unit: str) -> "Figure":
    """Draws the gain of every image as a bar, the smallest first.

    Args:
        gain: gains [n].
        unit: text of the vertical axis, such as 'PSNR gain (dB)'.
    """
    ordered = np.sort(gain)
    axes = new_axes("images, smallest gain first", unit)
    colours = np.where(ordered > 0, _BETTER, _WORSE)
    axes.bar(np.arange(len(ordered)), ordered, width=0.8, color=colours)
    axes.axhline(0, color=QUIET, linewidth=1)
    axes.set_xticks([])
    return axes.figure


def usage_chart(counts: Mapping[str, np.ndarray]) -> "Figure":
    """Draws the share of every code, the commonest first.

    Args:
        counts: {whose: how often each code occurs [K]}. The teacher's, or else the first, are
            filled and give the order; the others are lines.
    """
    first = "teacher" if "teacher" in counts else next(iter(counts))
    shares = {whose: 100 * c / max(c.sum(), 1) for whose, c in counts.items()}
    order = np.argsort(-shares[first], kind="stable")
    axes = new_axes(f"{len(order)} codes, commonest first", "share of all codes (%)")
    axes.stairs(shares[first][order], fill=True, color=_BAR, label=first)
    for whose, values in shares.items():
        if whose != first:
            axes.stairs(values[order], color=_LINE, linewidth=1, label=whose)
    axes.axhline(100 / len(order), color=QUIET, linewidth=1, linestyle="--", label="even use")
    axes.legend(frameon=False, labelcolor=QUIET)
    return axes.figure
