"""Draws loss curves of two programs, and how far they lie apart, as a small PNG."""

import math

from PIL import Image, ImageDraw, ImageFont

WIDTH, ROW, MARGIN = 1080, 250, 56
COLOURS = ("#4269d0", "#e8730c", "#c22f4d", "#3a9a8c", "#7a5bb5", "#8a6d3b", "#44aa33", "#666666")
GRID, INK, PEER = "#dddddd", "#222222", "#b8b8b8"
TITLES = {"vqgan": "Stage I", "code_prediction": "Stage II", "restoration": "Stage III"}
DECADES = (-8, -2)


class Panel:
    """A pair of axes: values to pixels."""

    def __init__(self, draw, left, top, right, bottom, steps, low, high):
        self.draw, self.box = draw, (left, top, right, bottom)
        self.steps, self.low, self.high = steps, low, high
        draw.rectangle(self.box, outline=GRID)
        for step in range(0, steps, 5):
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
        points = [self.at(step, value) for step, value in enumerate(values)]
        self.draw.line(points, fill=colour, width=width, joint="curve")
        for x, y in points if dots else ():
            self.draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)


def draw(results, bound, path):
    """One row per stage: every loss, PyTorch's as a broad gray line with ours on it, and their
    relative differences on a logarithmic scale, with the bound."""
    image = Image.new("RGB", (WIDTH, ROW * len(results)), "white")
    canvas = ImageDraw.Draw(image)
    canvas.font = ImageFont.load_default(11)
    for row, result in enumerate(results):
        top, bottom = row * ROW + 34, (row + 1) * ROW - 24
        middle = WIDTH * 0.42
        names = list(result["worst"])
        colours = dict(zip(names, COLOURS * 2, strict=False))
        steps = len(result["torch"]["loss"])
        title = TITLES.get(result["stage"], result["stage"])
        canvas.text(
            (MARGIN, top - 20), f"{title}: losses, PyTorch gray, this project in colour", INK
        )
        curves = [(n, result["torch"][n], result["jax"][n]) for n in names]
        values = [v for _, theirs, ours in curves for v in (*theirs, *ours)]
        panel = Panel(canvas, MARGIN, top, middle, bottom, steps, min(values), max(values))
        for value in (min(values), (min(values) + max(values)) / 2, max(values)):
            panel.tick(value, f"{value:.2g}")
        for name, theirs, ours in curves:
            panel.curve(theirs, PEER, width=6)
            panel.curve(ours, colours[name], dots=True)
        left, right = middle + MARGIN + 14, WIDTH - 150
        canvas.text((left, top - 20), "relative difference at every step", INK)
        panel = Panel(canvas, left, top, right, bottom, steps, *DECADES)
        for decade in range(DECADES[0], DECADES[1] + 1):
            panel.tick(decade, f"1e{decade}")
        panel.tick(math.log10(bound), f"{bound:g}", INK)
        for index, (name, differences) in enumerate(result["relative_difference"].items()):
            logs = [
                min(max(math.log10(max(d, 1e-30)), DECADES[0]), DECADES[1]) for d in differences
            ]
            panel.curve(logs, colours[name], dots=True)
            canvas.text((right + 10, top + 14 * index), name, fill=colours[name])
    image.quantize(64).save(path, optimize=True)
