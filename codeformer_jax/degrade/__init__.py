"""Degradations of training and test images on the device: `degrade(images, keys, recipe)`.

`pipeline` applies the corruptions in order. `blind` and `second_order` hold the two published
degradations, `corruptions` the protocol and registry of optional corruptions, `extras` the built-in
ones, `recipes` the named ranges. `describe` puts drawn parameters into words.
"""

from codeformer_jax.degrade import extras as _register_built_in  # noqa: F401
from codeformer_jax.degrade.corruptions import CORRUPTIONS, Corruption
from codeformer_jax.degrade.describe import describe
from codeformer_jax.degrade.pipeline import (
    KERNEL_SIZE,
    KINDS,
    MINIMUM_IMAGE_SIZE,
    MINIMUM_SMALL_SIZE,
    Parameters,
    Recipe,
    apply,
    degrade,
    draw,
    manifest_fields,
)
from codeformer_jax.degrade.ranges import number, probability, shares, whole, within
from codeformer_jax.degrade.recipes import RECIPES

__all__ = [
    "CORRUPTIONS",
    "KERNEL_SIZE",
    "KINDS",
    "MINIMUM_IMAGE_SIZE",
    "MINIMUM_SMALL_SIZE",
    "RECIPES",
    "Corruption",
    "Parameters",
    "Recipe",
    "apply",
    "degrade",
    "describe",
    "draw",
    "manifest_fields",
    "number",
    "probability",
    "shares",
    "whole",
    "within",
]
