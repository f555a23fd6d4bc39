"""Corruptions that a recipe may add to its degradation: motion blur, colours, painted strokes.

Each is a section of the recipe with the ranges that `draw_*` draws from and a counterpart with what
was drawn for one image (or for a batch: leading [b]). All values that change nothing are exact: an
image that a corruption passes by keeps its pixels.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Key

from codeformer_jax.degrade.ranges import number, probability, read, whole, within
from codeformer_jax.ops import jitter
from codeformer_jax.ops.masks import random_stroke, stroke_masks
from codeformer_jax.ops.motion import motion_path, path_kernel

MOTION_KERNEL_SIZE = 41
MAX_STROKES = 8
MAX_CORNERS = 16


@struct.dataclass
class MotionBlur:
    """Blur along a random path, before anything else.

    probability: []; length: [2] pixels of the path, which is shrunk to fit 41x41.
    """

    probability: Any
    length: Any

    @classmethod
    def from_config(cls, given: Any) -> "MotionBlur":
        checks = {"probability": probability, "length": within(0.0, 1000.0)}
        defaults = {"probability": 0.3, "length": (5.0, 40.0)}
        return cls(**read("motion_blur", given, checks, defaults))


@struct.dataclass
class Motion:
    """length: float32, 0 without motion; kernel: [41, 41], then the identity."""

    length: Any
    kernel: Any


def draw_motion(key: Key[Array, ""], ranges: MotionBlur) -> Motion:
    keys = jax.random.split(key, 3)
    chosen = jax.random.uniform(keys[0]) < ranges.probability
    length = jax.random.uniform(keys[1], (), jnp.float32, ranges.length[0], ranges.length[1])
    length = jnp.where(chosen, length, 0.0)
    return Motion(
        length=length,
        kernel=path_kernel(motion_path(keys[2], length), size=MOTION_KERNEL_SIZE),
    )


@struct.dataclass
class ColourShift:
    """A constant added to each channel: probability []; shift: [] levels of 255, either way."""

    probability: Any
    shift: Any

    @classmethod
    def from_config(cls, given: Any) -> "ColourShift":
        checks = {"probability": probability, "shift": number(0.0, 255.0)}
        return cls(**read("colour_shift", given, checks, {"probability": 0.3, "shift": 20.0}))


def draw_shift(key: Key[Array, ""], ranges: ColourShift) -> Float[Array, "3"]:
    """What is added to the channels, in [0, 1] units; 0 where the image is passed by."""
    chance, values = jax.random.split(key)
    chosen = jax.random.uniform(chance) < ranges.probability
    shift = jax.random.uniform(values, (3,), jnp.float32, -1.0, 1.0) * ranges.shift / 255.0
    return jnp.where(chosen, shift, 0.0)


@struct.dataclass
class ColourJitter:
    """Brightness, contrast, saturation and hue in random order; probability [], the rest [2]."""

    probability: Any
    brightness: Any
    contrast: Any
    saturation: Any
    hue: Any

    @classmethod
    def from_config(cls, given: Any) -> "ColourJitter":
        factor = within(0.0, 100.0)
        checks = {"probability": probability, "brightness": factor, "contrast": factor}
        checks |= {"saturation": factor, "hue": within(-0.5, 0.5)}
        defaults = {"probability": 0.3, "brightness": (0.5, 1.5), "contrast": (0.5, 1.5)}
        defaults |= {"saturation": (0.0, 1.5), "hue": (-0.1, 0.1)}
        return cls(**read("colour_jitter", given, checks, defaults))


@struct.dataclass
class Jitter:
    """Arguments of `ops.jitter.colour_jitter`; 1, 1, 1, 0 where the image is passed by."""

    brightness: Any
    contrast: Any
    saturation: Any
    hue: Any
    order: Any


def draw_jitter(key: Key[Array, ""], ranges: ColourJitter) -> Jitter:
    keys = jax.random.split(key, 6)
    chosen = jax.random.uniform(keys[0]) < ranges.probability

    def uniform(index: int, bounds: Array, neutral: float) -> Array:
        value = jax.random.uniform(keys[index], (), jnp.float32, bounds[0], bounds[1])
        return jnp.where(chosen, value, neutral)

    return Jitter(
        brightness=uniform(1, ranges.brightness, 1.0),
        contrast=uniform(2, ranges.contrast, 1.0),
        saturation=uniform(3, ranges.saturation, 1.0),
        hue=uniform(4, ranges.hue, 0.0),
        order=jax.random.permutation(keys[5], jnp.arange(4, dtype=jnp.int32)),
    )


@struct.dataclass
class Mask:
    """Brush strokes painted white, last; pixels and degrees, all [2].

    `strokes` (1..8) and `corners` of each (2..16) are whole numbers drawn from low to high; each
    piece between two corners has a `length`, and leaves the stroke's heading by `turn`.
    """

    strokes: Any
    corners: Any
    width: Any
    length: Any
    turn: Any

    @classmethod
    def from_config(cls, given: Any) -> "Mask":
        checks = {"strokes": whole(1, MAX_STROKES), "corners": whole(2, MAX_CORNERS)}
        checks |= {"width": within(0.0, 1e4), "length": within(0.0, 1e4)}
        checks |= {"turn": within(0.0, 180.0)}
        defaults = {"strokes": (1, 4), "corners": (4, 12), "width": (24.0, 80.0)}
        defaults |= {"length": (20.0, 160.0), "turn": (48.0, 96.0)}
        return cls(**read("mask", given, checks, defaults))


@struct.dataclass
class Strokes:
    """points: [8, 16, 2] corners (x, y) in pixels; width: [8], -1 of strokes that are not there."""

    points: Any
    width: Any


def draw_strokes(key: Key[Array, ""], ranges: Mask, size: int) -> Strokes:
    keys = jax.random.split(key, 4)
    strokes = _whole(keys[0], (), ranges.strokes)
    corners = _whole(keys[1], (MAX_STROKES,), ranges.corners)
    width = jax.random.uniform(
        keys[2], (MAX_STROKES,), jnp.float32, ranges.width[0], ranges.width[1]
    )
    turn = ranges.turn * np.float32(np.pi / 180)
    points = jax.vmap(
        lambda key, number: random_stroke(key, number, ranges.length, turn, size, MAX_CORNERS)
    )(jax.random.split(keys[3], MAX_STROKES), corners)
    there = jnp.arange(MAX_STROKES, dtype=jnp.float32) < strokes
    return Strokes(points=points, width=jnp.where(there, width, -1.0))


def paint(images: Float[Array, "b h w 3"], strokes: Strokes) -> Float[Array, "b h w 3"]:
    """The strokes in white on the images."""
    mask = stroke_masks(strokes.points, strokes.width, images.shape[1:3])
    return jnp.where(mask > 0, 1.0, images)


def recolour(
    images: Float[Array, "b h w 3"],
    shift: Float[Array, "b 3"] | None,
    gray: Array | None,
    drawn: Jitter | None,
) -> Float[Array, "b h w 3"]:
    """Shift, then gray, then jitter; those that are None cost nothing."""
    if shift is not None:
        images = jnp.clip(images + shift[:, None, None, :], 0.0, 1.0)
    if gray is not None:
        images = jnp.where(gray[:, None, None, None], jitter.to_gray(images), images)
    if drawn is not None:
        images = jitter.colour_jitter(
            images, drawn.brightness, drawn.contrast, drawn.saturation, drawn.hue, drawn.order
        )
    return images


def _whole(key: Key[Array, ""], shape: tuple[int, ...], bounds: Array) -> Array:
    """Whole numbers from low to high, both included, as float32."""
    value = jax.random.uniform(key, shape, jnp.float32, bounds[0], bounds[1] + 1.0)
    # The largest of uniform numbers may be rounded up to the open end.
    return jnp.minimum(jnp.floor(value), bounds[1])
