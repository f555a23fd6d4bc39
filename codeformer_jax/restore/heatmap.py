"""Picture of a restored face beside the bits of its codes."""

import threading

import numpy as np
from jaxtyping import Float, UInt8

from codeformer_jax.restore.fit import Fitted

# One scale for all pictures of a prior: it ends at this multiple of a blind guess.
_TOP = 1.5
_LEAST_SIDE, _DPI = 256, 100
_drawing = threading.Lock()  # matplotlib is not made for threads.

Picture = UInt8[np.ndarray, "h w 3"]


def draw_heatmap(
    restored: Picture,
    bits: Float[np.ndarray, "rows columns"],
    fitted: Fitted,
    *,
    uniform: float,
    heldout: float | None,
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Draws the face, the face under the bits of its codes, and a colour bar.

    Args:
        restored: the result, cut to its picture.
        bits: of the codes over the whole square of the network.
        fitted: position of the picture in the square.
        uniform: bits of a blind guess.
        heldout: mean bits of held-out clean faces, or None.

    Returns:
        The sheet.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  Takes a second.
    from matplotlib.figure import Figure  # noqa: PLC0415

    height, width = restored.shape[:2]
    scale = max(1, _LEAST_SIDE / max(height, width)) / _DPI
    clean = "" if heldout is None else f"clean faces {heldout:.2f}, "
    with _drawing:
        figure = Figure((2 * width * scale + 1.5, height * scale + 1), _DPI, layout="constrained")
        face, heat = figure.subplots(1, 2)
        face.imshow(restored)
        heat.imshow(restored.mean(axis=-1), "gray", vmin=0, vmax=255)
        # The bits lie over the whole square, of which the axes show the picture.
        top, left, side = fitted.top, fitted.left, len(fitted.pixels)
        square = (-left - 0.5, side - left - 0.5, side - top - 0.5, -top - 0.5)
        look = {"cmap": "inferno", "alpha": 0.65, "interpolation": "bilinear", "extent": square}
        shown = heat.imshow(bits, vmin=0, vmax=_TOP * uniform, **look)
        heat.axis(face.axis())
        for axes in (face, heat):
            axes.set_axis_off()
        figure.colorbar(shown, ax=(face, heat), extend="max")
        figure.suptitle(
            f"{bits.mean():.2f} bits per code\n({clean}a blind guess {uniform:.2f})", fontsize=10
        )
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.array(canvas.buffer_rgba())[..., :3]
