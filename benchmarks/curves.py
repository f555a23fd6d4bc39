"""Draws the training curves of runs as one small picture, a row for each run.

    make demo
    python benchmarks/curves.py docs/curves.png demo/[123]_*

Curves in one panel share an axis from 0; the dashed line is where the discriminator
begins. Curves that a run did not write are left out.
"""

import argparse
import json
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from trajectory_plot import COLOURS, INK, PEER, Panel

from codeformer_jax.checkpoints.workdir import read_config

WIDTH, HEIGHT, MARGIN = 1180, 200, 44
STAGES = {
    "vqgan": (
        "Stage I: VQGAN",
        ("train/l1",),
        ("train/codebook_loss",),
        ("train/perplexity", "train/dead_codes"),
        ("train/d_real", "train/d_fake"),
        ("eval/psnr",),
    ),
    "code_prediction": (
        "Stage II: code prediction",
        ("train/cross_entropy",),
        ("train/accuracy",),
        ("train/perplexity",),
        ("eval/unused_codes",),
        ("eval/accuracy",),
    ),
    "restoration": (
        "Stage III: restoration",
        ("train/l1",),
        ("train/cross_entropy",),
        ("train/grad_norm_fusion",),
        ("train/d_real", "train/d_fake"),
        ("eval/psnr_w0", "eval/psnr_w1"),
    ),
}


def read_curves(workdir):
    """({metric: [(step, value)]} of a run, its config)."""
    curves = {}
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        for name, value in row.items():
            curves.setdefault(name, []).append((row["step"], value))
    return curves, read_config(workdir)


def draw_panel(canvas, box, names, curves, gan_start):
    """The curves of `names` in one pair of axes with their names above it."""
    left, top, _, bottom = box
    values = [value for name in names for _, value in curves[name]]
    low, high = min(0.0, *values), max(values)
    if min(values) > high / 2:  # Such as dB.
        low = min(values)
    last = max(step for points in curves.values() for step, _ in points)
    panel = Panel(canvas, *box, last + 1, low, high, every=100 * max(1, last // 300))
    panel.tick(low, f"{low:.3g}")
    panel.tick(high, f"{high:.3g}")
    if gan_start is not None and gan_start <= last:
        x, _ = panel.at(gan_start, low)
        for y in range(top, bottom, 8):
            canvas.line([(x, y), (x, y + 4)], fill=PEER)
    x = left
    for name, colour in zip(names, COLOURS[: len(names)], strict=True):
        # Evaluations are few: the lines between them were not measured.
        panel.line(curves[name], colour, width=2, dots=name.startswith("eval/"))
        shown = name.removeprefix("train/")
        canvas.text((x, top - 16), shown, fill=colour)
        x += canvas.textlength(shown) + 12


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path, help="PNG to write")
    parser.add_argument("workdirs", type=Path, nargs="+", help="runs, in the order of the rows")
    arguments = parser.parse_args()
    image = Image.new("RGB", (WIDTH, HEIGHT * len(arguments.workdirs)), "white")
    canvas = ImageDraw.Draw(image)
    canvas.font = ImageFont.load_default(11)
    for row, workdir in enumerate(arguments.workdirs):
        curves, config = read_curves(workdir)
        if config.task not in STAGES:
            parser.error(f"{workdir}: a run of {config.task!r}; expected {', '.join(STAGES)}")
        title, *groups = STAGES[config.task]
        title = f"{title} ({workdir.name})"
        groups = [written for group in groups if (written := [n for n in group if n in curves])]
        if not groups:
            parser.error(f"{workdir}: metrics.jsonl has none of the curves of {config.task!r}")
        width = WIDTH // len(groups)
        top = row * HEIGHT + 48
        canvas.text((MARGIN, top - 40), title, fill=INK, font=ImageFont.load_default(13))
        for column, names in enumerate(groups):
            left = column * width + MARGIN
            box = (left, top, left + width - MARGIN - 14, (row + 1) * HEIGHT - 24)
            draw_panel(canvas, box, names, curves, config.loss.get("gan_start"))
    image.quantize(32).save(arguments.picture, optimize=True)


if __name__ == "__main__":
    main()
