"""Degradations of training and test images on the device: `degrade(images, keys, recipe)`.

`pipeline` puts the corruptions in order, `second_order` and `extras` hold those beyond the blind
degradation, `recipes` the named ranges and `describe` puts what was drawn into words.
"""

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
)
from codeformer_jax.degrade.recipes import RECIPES

__all__ = [
    "KERNEL_SIZE",
    "KINDS",
    "MINIMUM_IMAGE_SIZE",
    "MINIMUM_SMALL_SIZE",
    "RECIPES",
    "Parameters",
    "Recipe",
    "apply",
    "degrade",
    "describe",
    "draw",
]
