"""What was drawn for one image, in a few short lines for people."""

import math
from typing import Any

import jax
import numpy as np

from codeformer_jax.degrade.extras import Jitter
from codeformer_jax.degrade.pipeline import Parameters
from codeformer_jax.degrade.second_order import (
    GENERALIZED,
    IDENTITY,
    PLATEAU,
    SINC,
    Kernel,
    RoundParameters,
)

_MODES = ("area", "bilinear", "bicubic")
_ADJUSTMENTS = ("brightness", "contrast", "saturation", "hue")


def describe(parameters: Parameters, image_size: int) -> list[str]:
    """Lines on the scalar parameters of one image of this side, in the order of application."""
    p = jax.tree.map(_plain, parameters)
    lines = []
    if p.motion is not None and p.motion.length > 0:
        lines.append(f"motion {p.motion.length:.0f} px")
    if p.rounds is not None:
        first = _round(p.rounds.first, "1")
        small = f"{_kernel(p.rounds.kernel, 'last')}, {p.small_size} px {_MODES[p.rounds.mode]}"
        second = _round(p.rounds.second, "2")
        # The last line of a round is its JPEG.
        last = [small, second[-1]] if p.rounds.jpeg_last else [second[-1], small]
        lines += [*first, *second[:-1], *last]
    elif p.small_size is not None:
        noise, factor = p.noise_sigma * 255, image_size / p.small_size
        lines.append(_gaussian("blur", p.sigma_x, p.sigma_y, p.theta))
        lines.append(f"down {factor:.1f} ({p.small_size} px)")
        lines.append(f"noise {noise:.1f}, JPEG {p.jpeg_quality}")
    if p.shift is not None and p.shift.any():
        lines.append("shift {:+.0f} {:+.0f} {:+.0f}".format(*(p.shift * 255)))
    if p.gray is not None and p.gray:
        lines.append("gray")
    if p.jitter is not None:
        lines += _jitter(p.jitter)
    if p.strokes is not None:
        count = int((p.strokes.width >= 0).sum())
        lines.append(f"{count} stroke{'s' * (count != 1)}")
    return lines


def _plain(value: Any) -> Any:
    """A Python number for a scalar."""
    value = np.asarray(value)
    return value if value.ndim else value.item()


def _gaussian(label: str, sigma_x: float, sigma_y: float, theta: float) -> str:
    if sigma_x == sigma_y:
        return f"{label} {sigma_x:.1f} px"
    return f"{label} {sigma_x:.1f} x {sigma_y:.1f} px at {math.degrees(theta):.0f}°"


def _kernel(kernel: Kernel, label: str) -> str:
    if kernel.shape == IDENTITY:
        return f"{label}: no blur"
    taps = 2 * kernel.radius + 1
    if kernel.shape == SINC:
        return f"{label}: sinc {kernel.cutoff / math.pi:.2f} pi, {taps} taps"
    names = {
        GENERALIZED: f"generalized ({kernel.beta:.1f})",
        PLATEAU: f"plateau ({kernel.beta:.1f})",
    }
    name = names.get(kernel.shape, "blur")
    return _gaussian(f"{label}: {name}", kernel.sigma_x, kernel.sigma_y, kernel.theta)


def _round(drawn: RoundParameters, label: str) -> list[str]:
    noise = f"Poisson {drawn.poisson:.1f}"
    if drawn.noise_sigma > 0:
        noise = f"noise {drawn.noise_sigma * 255:.0f}"
    gray = " gray" if drawn.gray_noise else ""
    return [
        _kernel(drawn.kernel, label),
        f"{label}: {drawn.side} px {_MODES[drawn.mode]}, {noise}{gray}",
        f"{label}: JPEG {drawn.jpeg_quality}",
    ]


def _jitter(drawn: Jitter) -> list[str]:
    """The adjustments that change something, two a line, in their order."""
    values = (drawn.brightness, drawn.contrast, drawn.saturation, drawn.hue)
    neutral = (1.0, 1.0, 1.0, 0.0)
    words = [
        f"{_ADJUSTMENTS[kind]} {values[kind]:{'+.2f' if kind == 3 else '.2f'}}"
        for kind in drawn.order
        if values[kind] != neutral[kind]
    ]
    return [", ".join(words[i : i + 2]) for i in range(0, len(words), 2)]
