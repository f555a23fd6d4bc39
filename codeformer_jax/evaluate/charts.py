"""Charts of an evaluation, by matplotlib."""

import base64
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Readable on white and on black paper.
_QUIET, _BAR, _LINE, _BETTER, _WORSE = "#7d8590", "#4a86c8", "#d9822b", "#2f9560", "#d0503f"


def gain_chart(gain: np.ndarray, unit: str) -> "Figure":
    """Draws the gain of every image as a bar, the smallest first.

    Args:
        gain: gains [n].
        unit: text of the vertical axis, such as 'PSNR gain (dB)'.
    """
    ordered = np.sort(gain)
    axes = _axes("images, smallest gain first", unit)
    colours = np.where(ordered > 0, _BETTER, _WORSE)
    axes.bar(np.arange(len(ordered)), ordered, width=0.8, color=colours)
    axes.axhline(0, color=_QUIET, linewidth=1)
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
    axes = _axes(f"{len(order)} codes, commonest first", "share of all codes (%)")
    axes.stairs(shares[first][order], fill=True, color=_BAR, label=first)
    for whose, values in shares.items():
        if whose != first:
            axes.stairs(values[order], color=_LINE, linewidth=1, label=whose)
    axes.axhline(100 / len(order), color=_QUIET, linewidth=1, linestyle="--", label="even use")
    axes.legend(frameon=False, labelcolor=_QUIET)
    return axes.figure


def data_url(figure: "Figure") -> str:
    """Returns a figure as a `data:` URL of an SVG picture, for a page that requests nothing."""
    import matplotlib  # noqa: PLC0415  It takes a second to import.

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "codeformer-jax"}):  # The same file every time.
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _axes(below: str, left: str) -> "Axes":
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(5.6, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(below, color=_QUIET)
    axes.set_ylabel(left, color=_QUIET)
    axes.tick_params(colors=_QUIET)
    axes.grid(axis="y", color=_QUIET, alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.margins(x=0.01)
    return axes
