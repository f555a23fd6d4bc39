"""Built-in corruptions of a recipe: motion blur, colour changes and painted strokes.

A corruption that leaves an image alone draws values that keep every pixel exactly.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from codeformer_jax.degrade.corruptions import CORRUPTIONS, Corruption
from codeformer_jax.degrade.ranges import number, probability, whole, within
from codeformer_jax.ops import jitter
from codeformer_jax.ops.blur import filter2d, motion_path, path_kernel
from codeformer_jax.ops.masks import random_stroke, stroke_masks

MOTION_KERNEL_SIZE = 41
MAX_STROKES = 8
MAX_CORNERS = 16


@CORRUPTIONS.register("motion_blur")
class MotionBlur(Corruption):
    """Blur along a random path, before the degradation.

    `length` is the length of the path in pixels; longer paths are shrunk to fit 41x41.
    """

    settings: ClassVar = {
        "probability": (probability, 0.3),
        "length": (within(0.0, 1000.0), (5.0, 40.0)),
    }
    place = "before"
    stream = 17

    def draw(self, key: Key[Array, ""], ranges: Any, image_size: int) -> dict[str, Array]:
        """Returns 'length' in pixels, 0 without motion, and 'kernel' [41, 41]."""
        keys = jax.random.split(key, 3)
        chosen = jax.random.uniform(keys[0]) < ranges["probability"]
        length = jnp.where(chosen, _uniform(keys[1], ranges["length"]), 0.0)
        kernel = path_kernel(motion_path(keys[2], length), size=MOTION_KERNEL_SIZE)
        return {"length": length, "kernel": kernel}

    def apply(self, images: Float[Array, "b s s 3"], drawn: Any) -> Float[Array, "b s s 3"]:
        return filter2d(images, drawn["kernel"])

    def words(self, drawn: Any) -> list[str]:
        return [f"motion {drawn['length']:.0f} px"] if drawn["length"] > 0 else []


@CORRUPTIONS.register("colour_shift")
class ColourShift(Corruption):
    """A constant added to each channel; `shift` is its largest size in levels of 255."""

    settings: ClassVar = {"probability": (probability, 0.3), "shift": (number(0.0, 255.0), 20.0)}
    stream = 18

    def draw(self, key: Key[Array, ""], ranges: Any, image_size: int) -> Float[Array, "3"]:
        """Returns the constants in [0, 1] units; 0 leaves the image alone."""
        chance, values = jax.random.split(key)
        chosen = jax.random.uniform(chance) < ranges["probability"]
        shift = jax.random.uniform(values, (3,), jnp.float32, -1.0, 1.0) * ranges["shift"] / 255.0
        return jnp.where(chosen, shift, 0.0)

    def apply(self, images: Float[Array, "b s s 3"], drawn: Any) -> Float[Array, "b s s 3"]:
        return jnp.clip(images + drawn[:, None, None, :], 0.0, 1.0)

    def words(self, drawn: Any) -> list[str]:
        return ["shift {:+.0f} {:+.0f} {:+.0f}".format(*(drawn * 255))] if drawn.any() else []


@CORRUPTIONS.register("gray")
class Gray(Corruption):
    """Gray image with a given probability, the section's only value."""

    stream = 19

    def read(self, name: str, given: Any) -> Array:
        return probability(name, given)

    def draw(self, key: Key[Array, ""], ranges: Any, image_size: int) -> Array:
        return jax.random.uniform(key) < ranges

    def apply(self, images: Float[Array, "b s s 3"], drawn: Any) -> Float[Array, "b s s 3"]:
        return jnp.where(drawn[:, None, None, None], jitter.to_gray(images), images)

    def words(self, drawn: Any) -> list[str]:
        return ["gray"] if drawn else []


@CORRUPTIONS.register("colour_jitter")
class ColourJitter(Corruption):
    """Brightness, contrast, saturation and hue changed in random order."""

    settings: ClassVar = {
        "probability": (probability, 0.3),
        "brightness": (within(0.0, 100.0), (0.5, 1.5)),
        "contrast": (within(0.0, 100.0), (0.5, 1.5)),
        "saturation": (within(0.0, 100.0), (0.0, 1.5)),
        "hue": (within(-0.5, 0.5), (-0.1, 0.1)),
    }
    stream = 20

    def draw(self, key: Key[Array, ""], ranges: Any, image_size: int) -> dict[str, Array]:
        """Returns the arguments of `ops.jitter.colour_jitter`; 1, 1, 1, 0 change nothing."""
        keys = jax.random.split(key, 6)
        chosen = jax.random.uniform(keys[0]) < ranges["probability"]

        def uniform(index: int, name: str, neutral: float) -> Array:
            return jnp.where(chosen, _uniform(keys[index], ranges[name]), neutral)

        return {
            "brightness": uniform(1, "brightness", 1.0),
            "contrast": uniform(2, "contrast", 1.0),
            "saturation": uniform(3, "saturation", 1.0),
            "hue": uniform(4, "hue", 0.0),
            "order": jax.random.permutation(keys[5], jnp.arange(4, dtype=jnp.int32)),
        }

    def apply(self, images: Float[Array, "b s s 3"], drawn: Any) -> Float[Array, "b s s 3"]:
        return jitter.colour_jitter(images, **drawn)

    def words(self, drawn: Any) -> list[str]:
        """Returns the adjustments that change something in their order, two a line."""
        names = ("brightness", "contrast", "saturation", "hue")
        neutral = (1.0, 1.0, 1.0, 0.0)
        words = [
            f"{names[kind]} {drawn[names[kind]]:{'+.2f' if kind == 3 else '.2f'}}"
            for kind in drawn["order"]
            if drawn[names[kind]] != neutral[kind]
        ]
        return [", ".join(words[i : i + 2]) for i in range(0, len(words), 2)]


@CORRUPTIONS.register("mask")
class Mask(Corruption):
    """Brush strokes painted white, after everything else.

    `strokes` and `corners` per stroke are integers drawn from low to high. `width` and `length` of
    a piece between two corners are in pixels; `turn` is the angle in degrees, at most, between a
    piece and the stroke's heading.
    """

    settings: ClassVar = {
        "strokes": (whole(1, MAX_STROKES), (1, 4)),
        "corners": (whole(2, MAX_CORNERS), (4, 12)),
        "width": (within(0.0, 1e4), (24.0, 80.0)),
        "length": (within(0.0, 1e4), (20.0, 160.0)),
        "turn": (within(0.0, 180.0), (48.0, 96.0)),
    }
    place = "last"
    stream = 21

    def draw(self, key: Key[Array, ""], ranges: Any, image_size: int) -> dict[str, Array]:
        """Returns 'points' [8, 16, 2], corners (x, y) in pixels, and 'width' [8], -1 if unused."""
        keys = jax.random.split(key, 4)
        strokes = _integers(keys[0], (), ranges["strokes"])
        corners = _integers(keys[1], (MAX_STROKES,), ranges["corners"])
        width = _uniform(keys[2], ranges["width"], (MAX_STROKES,))
        length, turn = ranges["length"], ranges["turn"] * np.float32(np.pi / 180)
        points = jax.vmap(
            lambda key, count: random_stroke(key, count, length, turn, image_size, MAX_CORNERS)
        )(jax.random.split(keys[3], MAX_STROKES), corners)
        used = jnp.arange(MAX_STROKES, dtype=jnp.float32) < strokes
        return {"points": points, "width": jnp.where(used, width, -1.0)}

    def apply(self, images: Float[Array, "b s s 3"], drawn: Any) -> Float[Array, "b s s 3"]:
        mask = stroke_masks(drawn["points"], drawn["width"], images.shape[1:3])
        return jnp.where(mask > 0, 1.0, images)

    def words(self, drawn: Any) -> list[str]:
        count = int((drawn["width"] >= 0).sum())
        return [f"{count} stroke{'s' * (count != 1)}"]


def _uniform(key: Key[Array, ""], bounds: Array, shape: tuple[int, ...] = ()) -> Array:
    return jax.random.uniform(key, shape, jnp.float32, bounds[0], bounds[1])


def _integers(key: Key[Array, ""], shape: tuple[int, ...], bounds: Array) -> Array:
    """Draws integers from low to high, both included, as float32."""
    value = jax.random.uniform(key, shape, jnp.float32, bounds[0], bounds[1] + 1.0)
    # The largest uniform numbers may be rounded up to the open end.
    return jnp.minimum(jnp.floor(value), bounds[1])
