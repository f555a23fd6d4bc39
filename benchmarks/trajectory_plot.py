"""Draws loss curves of two programs, and how far they lie apart, as a small PNG."""

import math

from PIL import Image, ImageDraw, ImageFont

WIDTH, ROW, MARGIN = 1080, 250, 56
COLOURS = ("#4269d0", "#e8730c", "#c22f4d", "#3a9a8c", "#7a5bb5", "#8a6d3b", "#44aa33", "#00a5d8")
COLOURS += ("#d06bb0", "#222222")
# A loss has one colour in all stages; no stage has both a codebook loss and a feature loss.
LOSSES = ("l1", "perceptual", "gan", "adaptive_weight", "adaptive_ratio", "cross_entropy")
LOSSES += ("d_real", "d_fake", "codebook_loss", "loss")
LOSS_COLOURS = dict(zip(LOSSES, COLOURS, strict=True))
LOSS_COLOURS["feature"] = LOSS_COLOURS["codebook_loss"]
GRID, INK, PEER = "#dddddd", "#222222", "#b8b8b8"
TITLES = {"vqgan": "Stage I", "code_prediction": "Stage II", "restoration": "Stage III"}
DECADES = (-8, 1)
SINGLE_STEP_DECADES = (-8, -2)
DOUBLE_DECADES = (-17, -2)
APART_DECADES = (-6, 0)


class Panel:
    """A pair of axes: values to pixels."""

    def __init__(self, draw, left, top, right, bottom, steps, low, high, every=5):
        self.draw, self.box = draw, (left, top, right, bottom)
        self.steps, self.low, self.high = steps, low, high
        draw.rectangle(self.box, outline=GRID)
        for step in range(0, steps, every):
            x, _ = self.at(step, low)
            draw.text((x, bottom + 3), str(step), fill=INK, anchor="ma")

    def at(self, step, value):
        left, top, right, bottom = self.box
        x = left + (right - left) * step / max(self.steps - 1, 1)
        span = max(self.high - self.low, 1e-12)
        return x, bottom - (bottom - top) * (value - self.low) / span

    def tick(self, value, label, colour=GRID):
        (left, y), (right, _) = self.at(0, value), self.at(self.steps - 1, value)
        self.draw.line([(left, y), (right, y)], fill=colour)
        self.draw.text((left - 4, y), label, fill=INK, anchor="rm")

    def curve(self, values, colour, width=1, dots=False):
        """Values of steps 0, 1, ..."""
        self.line(enumerate(values), colour, width, dots)

    def line(self, pairs, colour, width=1, dots=False):
        """Pairs of step and value."""
        points = [self.at(step, value) for step, value in pairs]
        self.draw.line(points, fill=colour, width=width, joint="curve")
        for x, y in points if dots else ():
            self.draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)


def draw(results, bound, path):
    """One row per stage, as a PNG: `draw_course`, or `draw_each_step` where each step is alone."""
    image = Image.new("RGB", (WIDTH, ROW * len(results)), "white")
    canvas = ImageDraw.Draw(image)
    canvas.font = ImageFont.load_default(11)
    for row, result in enumerate(results):
        top, bottom = row * ROW + 34, (row + 1) * ROW - 24
        draw_row = draw_each_step if "apart" in result else draw_course
        draw_row(canvas, result, bound, top, bottom)
    image.quantize(64).save(path, optimize=True)


def draw_course(canvas, result, bound, top, bottom):
    """Every loss, PyTorch's as a broad gray line with ours on it, and their differences."""
    names, title = list(result["worst"]), TITLES.get(result["stage"], result["stage"])
    text = f"{title}: losses, PyTorch gray, this project in colour"
    canvas.text((MARGIN, top - 20), text, INK)
    curves = [(n, result["torch"][n], result["jax"][n]) for n in names]
    values = [v for _, theirs, ours in curves for v in (*theirs, *ours)]
    middle, steps = WIDTH * 0.42, len(result["torch"]["loss"])
    panel = Panel(canvas, MARGIN, top, middle, bottom, steps, min(values), max(values))
    for value in (min(values), (min(values) + max(values)) / 2, max(values)):
        panel.tick(value, f"{value:.2g}")
    for name, theirs, ours in curves:
        panel.curve(theirs, PEER, width=6)
        panel.curve(ours, LOSS_COLOURS[name], dots=True)
    left, right = middle + MARGIN + 14, WIDTH - 150
    canvas.text((left, top - 20), "relative difference at every step; none: at the edge", INK)
    double = max(result["worst"].values()) < 10.0 ** DECADES[0]
    decades = DOUBLE_DECADES if double else DECADES
    panel = Panel(canvas, left, top, right, bottom, steps, *decades)
    draw_differences(panel, result["relative_difference"], LOSS_COLOURS, bound)


def draw_each_step(canvas, result, bound, top, bottom):
    """Differences of the losses, and of gradients and updates with PyTorch's own in gray."""
    title = TITLES.get(result["stage"], result["stage"])
    differences, steps = result["relative_difference"], len(result["torch"]["loss"])
    middle = WIDTH * 0.34
    canvas.text((MARGIN, top - 20), f"{title}: losses of each step from PyTorch's state", INK)
    panel = Panel(canvas, MARGIN, top, middle, bottom, steps, *SINGLE_STEP_DECADES)
    draw_differences(panel, differences, LOSS_COLOURS, bound)
    left, right = middle + 140 + MARGIN, WIDTH - 150
    canvas.text(
        (left, top - 20), "its gradients and updates; gray: PyTorch on one thread from two", INK
    )
    panel = Panel(canvas, left, top, right, bottom, steps, *APART_DECADES)
    floors = [v for found in result["apart_again"].values() for v in found.values()]
    for values in floors:
        panel.curve(logarithms(values, APART_DECADES), PEER, width=2)
    curves = {
        f"{network}: {quantity}": values
        for network, found in result["apart"].items()
        for quantity, values in found.items()
    }
    draw_differences(panel, curves, dict(zip(curves, COLOURS, strict=False)))


def draw_differences(panel, curves, colours, bound=None):
    """Curves on a logarithmic scale, named beside the panel, and the bound."""
    low, high = round(panel.low), round(panel.high)
    for decade in range(low, high + 1):
        if bound is None or not math.isclose(decade, math.log10(bound)):
            panel.tick(decade, f"1e{decade}")
    if bound is not None:
        panel.tick(math.log10(bound), f"{bound:g}", INK)
    for index, (name, values) in enumerate(curves.items()):
        panel.curve(logarithms(values, (low, high)), colours[name], dots=True)
        _, top, right, _ = panel.box
        label = f"{name} (factor)" if name.startswith("adaptive_") else name
        panel.draw.text((right + 10, top + 14 * index), label, fill=colours[name])


def logarithms(values, decades):
    """Exponents of ten, kept within the axis."""
    low, high = decades
    return [min(max(math.log10(max(value, 1e-30)), low), high) for value in values]
