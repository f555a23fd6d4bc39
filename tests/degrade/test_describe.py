"""The words for what was drawn."""

import jax
import jax.numpy as jnp
import pytest

from codeformer_jax import degrade
from codeformer_jax.degrade import Parameters, Recipe
from codeformer_jax.degrade.second_order import (
    GENERALIZED,
    IDENTITY,
    SINC,
    Kernel,
    RoundParameters,
    SecondOrderParameters,
)


def blind(**changes):
    given = {"sigma_x": 2.0, "sigma_y": 3.5, "theta": 1.0, "small_size": 64, "jpeg_quality": 55}
    given |= {"noise_sigma": 8 / 255} | changes
    return Parameters(**jax.tree.map(jnp.asarray, given))


def jitter(*values):
    return dict(zip(("brightness", "contrast", "saturation", "hue", "order"), values, strict=True))


def test_the_blind_degradation():
    assert degrade.describe(blind(), 512) == [
        "blur 2.0 x 3.5 px at 57°",
        "down 8.0 (64 px)",
        "noise 8.0, JPEG 55",
    ]
    assert degrade.describe(blind(sigma_y=2.0), 512)[0] == "blur 2.0 px"


def test_what_passed_an_image_by_is_not_named():
    parameters = blind(
        corruptions={
            "motion_blur": {"length": 0.0, "kernel": jnp.zeros((41, 41))},
            "colour_shift": jnp.zeros(3),
            "gray": False,
            "colour_jitter": jitter(1.0, 1.0, 1.0, 0.0, jnp.arange(4)),
        }
    )
    assert degrade.describe(parameters, 512) == degrade.describe(blind(), 512)


def test_corruptions_in_their_order():
    strokes = {"points": jnp.zeros((8, 16, 2)), "width": jnp.asarray([9.0] + [-1.0] * 7)}
    parameters = Parameters(
        corruptions={
            "mask": strokes,
            "motion_blur": {"length": jnp.float32(23), "kernel": jnp.zeros((41, 41))},
            "colour_shift": jnp.asarray([4.0, -12.0, 0.0]) / 255,
            "gray": jnp.asarray(True),
            "colour_jitter": jitter(1.2, 1.0, 0.5, -0.05, jnp.asarray([3, 1, 0, 2])),
        }
    )
    assert degrade.describe(parameters, 512) == [
        "motion 23 px",
        "shift +4 -12 +0",
        "gray",
        "hue -0.05, brightness 1.20",
        "saturation 0.50",
        "1 stroke",
    ]


@pytest.mark.parametrize("jpeg_last", [True, False])
def test_the_second_order(jpeg_last):
    kernel = Kernel(GENERALIZED, 1.0, 2.0, 0.0, 1.5, 2.0, 4)
    first = RoundParameters(kernel, 300, 0, 0.1, 0.0, True, 40)
    second = RoundParameters(kernel.replace(shape=IDENTITY), 200, 2, 0.0, 1.2, False, 50)
    rounds = SecondOrderParameters(first, second, kernel.replace(shape=SINC), 1, jpeg_last)
    parameters = jax.tree.map(jnp.asarray, Parameters(rounds=rounds, small_size=128))
    end = ["last: sinc 0.64 pi, 9 taps, 128 px bilinear", "2: JPEG 50"]
    assert degrade.describe(parameters, 512) == [
        "1: generalized (1.5) 1.0 x 2.0 px at 0°",
        "1: 300 px area, noise 26 gray",
        "1: JPEG 40",
        "2: no blur",
        "2: 200 px bicubic, Poisson 1.2",
        *(end if jpeg_last else end[::-1]),
    ]


@pytest.mark.parametrize("name", degrade.RECIPES)
def test_every_recipe_has_words(name):
    drawn = degrade.draw(jax.random.key(0), Recipe.named(name), 512)
    lines = degrade.describe(drawn, 512)
    assert lines
    assert all(isinstance(line, str) and 0 < len(line) < 60 for line in lines)
