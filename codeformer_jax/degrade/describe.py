"""Descriptions of drawn parameters for people."""

import math
from typing import Any

import jax
import numpy as np

from codeformer_jax.degrade.corruptions import in_place
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


def describe(parameters: Parameters, image_size: int) -> list[str]:
    """Returns short lines on the parameters of one image, in the order of application.

    Args:
        parameters: scalars, as `draw` returns them for one image.
        image_size: side of the image in pixels.
    """
    p = jax.tree.map(_plain, parameters)

    def words(place: str) -> list[str]:
        corruptions = in_place(place, p.corruptions).items()
        return [line for name, each in corruptions for line in each.words(p.corruptions[name])]

    return words("before") + _degradation(p, image_size) + words("after") + words("last")


def _degradation(p: Parameters, image_size: int) -> list[str]:
    if p.rounds is not None:
        first = _round(p.rounds.first, "1")
        small = f"{_kernel(p.rounds.kernel, 'last')}, {p.small_size} px {_MODES[p.rounds.mode]}"
        second = _round(p.rounds.second, "2")
        # The last line of a round is its JPEG.
        last = [small, second[-1]] if p.rounds.jpeg_last else [second[-1], small]
        return [*first, *second[:-1], *last]
    if p.small_size is not None:
        return [
            _gaussian("blur", p.sigma_x, p.sigma_y, p.theta),
            f"down {image_size / p.small_size:.1f} ({p.small_size} px)",
            f"noise {p.noise_sigma * 255:.1f}, JPEG {p.jpeg_quality}",
        ]
    return []


def _plain(value: Any) -> Any:
    """Returns a Python number for a scalar."""
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
