"""Figures for pages: axes that are readable on white and on black paper, and `data:` URLs."""

import base64
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUIET = "#7d8590"  # Readable on white and on black paper.


def new_axes(below: str, left: str, size: tuple[float, float] = (5.6, 2.6)) -> "Axes":
    """Returns the axes of a new figure.

    Args:
        below, left: labels of the axes.
        size: width and height in inches.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  It takes a second to import.

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(below, color=QUIET)
    axes.set_ylabel(left, color=QUIET)
    axes.tick_params(colors=QUIET)
    axes.grid(axis="y", color=QUIET, alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.margins(x=0.01)
    return axes


def data_url(figure: "Figure") -> str:
    """Returns a figure as a `data:` URL of an SVG picture, for a page that requests nothing."""
    import matplotlib  # noqa: PLC0415

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "codeformer-jax"}):  # The same file every time.
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
