"""Degradation of clean images by a recipe: ranges, draws, and corruptions in order.

The kind 'blind' is `x -> round8(((x * k_sigma) down r + n_delta)_JPEG_q up r)`, CodeFormer (arXiv
2206.11253); 'second_order' puts two rounds in its place and 'clean' nothing. A recipe may add
registered corruptions before and after it, see `corruptions`.

Layout: [b, s, s, 3] RGB in [0, 1], float32, square. Everything runs on the device with static
shapes. Blur widths are in pixels of the given image and r divides its side, at any size. Each image
has its own key: its degradation depends only on its key and pixels.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Key

from codeformer_jax.degrade import blind
from codeformer_jax.degrade.corruptions import (
    CORRUPTIONS,
    apply_corruptions,
    draw_corruptions,
    in_place,
    read_corruptions,
)
from codeformer_jax.degrade.ranges import probability, within
from codeformer_jax.degrade.recipes import RECIPES
from codeformer_jax.degrade.second_order import (
    SECTIONS,
    SecondOrder,
    apply_rounds,
    draw_rounds,
)
from codeformer_jax.ops.checks import AnyArray, as_images, as_keys
from codeformer_jax.ops.devices import on_each_device
from codeformer_jax.ops.random import standard_normal
from codeformer_jax.ops.rounding import Gradient, to_8_bits
from codeformer_jax.system.keys import threefry_keys

KERNEL_SIZE = blind.KERNEL_SIZE
# Reflected borders need images larger than half a kernel.
MINIMUM_IMAGE_SIZE = KERNEL_SIZE // 2 + 1
# One pixel is left if r exceeds the side of a small image.
MINIMUM_SMALL_SIZE = 1

KINDS = ("blind", "second_order", "clean")

# Checks of the blind kind's ranges.
_CHECKS = {
    "blur_sigma": within(0.01, 1000.0),
    "downsample": within(1.0, 10000.0),
    "noise": within(0.0, 255.0),
    "jpeg_quality": within(1.0, 100.0),
}
# Stream of an image's key, clear of those that `split` makes of the same key: 0 to 6 in `draw`.
# The built-in corruptions use 17 to 21.
_SECOND_ORDER = 16
# Corruptions with names of their own in a test set's manifest, where they are null if off.
_MANIFEST_NAMES = {
    "motion_blur": "motion",
    "colour_shift": "shift",
    "gray": "gray",
    "colour_jitter": "jitter",
    "mask": "strokes",
}


@struct.dataclass
class Recipe:
    """Ranges from which parameters are drawn, as traced arrays: other numbers do not recompile.

    Build one with `create`, `from_config` or `named`, which check the values. A field that is None
    is off and costs nothing.

    Attributes:
        blur_sigma: [2] lowest and highest standard deviation of the blur in pixels.
        anisotropic: [] probability of two different widths at an angle instead of a round blur.
        downsample: [2] lowest and highest factor r.
        noise: [2] lowest and highest standard deviation in levels of 255.
        jpeg_quality: [2] lowest and highest quality; the drawn value is truncated to an integer.
        second_order: `SecondOrder`, which replaces all of the above but `downsample`.
        corruptions: {name: ranges}; see `corruptions.CORRUPTIONS`.
    """

    blur_sigma: Any = None
    anisotropic: Any = None
    downsample: Any = None
    noise: Any = None
    jpeg_quality: Any = None
    second_order: Any = None
    corruptions: Any = struct.field(default_factory=dict)

    @classmethod
    def create(
        cls,
        *,
        blur_sigma: Sequence[float | int],
        downsample: Sequence[float | int],
        noise: Sequence[float | int],
        jpeg_quality: Sequence[float | int],
        anisotropic: float | int = 0.5,
        **corruptions: Any,
    ) -> "Recipe":
        """Returns a recipe of kind 'blind'; low == high fixes a value.

        Args:
            blur_sigma: (low, high) in pixels.
            downsample: (low, high) factor.
            noise: (low, high) in levels of 255.
            jpeg_quality: (low, high) from 1 to 100.
            anisotropic: probability of an elliptical blur.
            **corruptions: sections of registered corruptions, such as 'motion_blur', 'mask' or the
                probability 'gray'; a setting that a section lacks gets its default.

        Raises:
            ValueError: for an unknown corruption, or a value out of range.
        """
        given = {
            "blur_sigma": blur_sigma,
            "downsample": downsample,
            "noise": noise,
            "jpeg_quality": jpeg_quality,
        }
        ranges = {name: _CHECKS[name](name, value) for name, value in given.items()}
        ranges["anisotropic"] = probability("anisotropic", anisotropic)
        return cls(**ranges, corruptions=read_corruptions(corruptions))

    @classmethod
    def named(cls, name: str) -> "Recipe":
        """Returns one of `RECIPES`; raises ValueError for another name."""
        if name not in RECIPES:
            raise ValueError(f"no recipe is named {name!r}; expected one of {', '.join(RECIPES)}")
        return cls.from_config(RECIPES[name])

    @classmethod
    def from_config(cls, config: Any) -> "Recipe":
        """Returns a recipe from a dict or ConfigDict.

        Args:
            config: `kind`, one of `KINDS`, is 'blind' by default. 'blind' takes the arguments of
                `create`; 'second_order' takes `downsample` and the sections of
                `SecondOrder.from_config`. Every kind takes sections of registered corruptions.
                None counts as absent.

        Raises:
            ValueError: for missing or unknown names, or a value out of range.
        """
        values = {name: value for name, value in config.items() if value is not None}
        kind = values.pop("kind", "blind")
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}: expected one of {', '.join(KINDS)}.")
        needed = {"blind": set(_CHECKS), "second_order": {"downsample"}, "clean": set()}[kind]
        optional = {"blind": {"anisotropic"}, "second_order": set(SECTIONS)}.get(kind, set())
        optional = optional | set(CORRUPTIONS)
        missing, unknown = sorted(needed - set(values)), sorted(set(values) - needed - optional)
        if missing or unknown:
            raise ValueError(
                f"A degradation of kind {kind!r} needs {sorted(needed)} and may have "
                f"{sorted(optional)}: missing {missing}, unknown {unknown}."
            )
        if kind == "blind":
            return cls.create(**values)
        sections = {name: value for name, value in values.items() if name in CORRUPTIONS}
        recipe = cls(corruptions=read_corruptions(sections))
        if kind == "clean":
            return recipe
        return recipe.replace(
            downsample=_CHECKS["downsample"]("downsample", values["downsample"]),
            second_order=SecondOrder.from_config(values),
        )


@struct.dataclass
class Parameters:
    """Values drawn for each image: scalars, or arrays [b] for a batch; None if off.

    Attributes:
        sigma_x, sigma_y: float32, blur widths in pixels along and across `theta`.
        theta: float32, radians.
        small_size: int32, side of the downsampled image.
        noise_sigma: float32, standard deviation in [0, 1] units.
        jpeg_quality: int32, 1 to 100.
        rounds: `SecondOrderParameters`.
        corruptions: {name: drawn values}, see `Corruption.draw`.
    """

    sigma_x: Any = None
    sigma_y: Any = None
    theta: Any = None
    small_size: Any = None
    noise_sigma: Any = None
    jpeg_quality: Any = None
    rounds: Any = None
    corruptions: Any = struct.field(default_factory=dict)


def manifest_fields(values: Recipe | Parameters) -> dict[str, Any]:
    """Returns a recipe or parameters as a flat dict, the form in which a manifest stores them.

    A test set is identified by the hash of its manifest, so this form must not change.
    """
    fields = {field.name: getattr(values, field.name) for field in dataclasses.fields(values)}
    corruptions = dict.fromkeys(_MANIFEST_NAMES) | fields.pop("corruptions")
    if isinstance(values, Parameters):
        corruptions = {_MANIFEST_NAMES.get(n, n): value for n, value in corruptions.items()}
    return fields | corruptions


def draw(key: Key[Array, ""], recipe: Recipe, image_size: int) -> Parameters:
    """Returns the parameters of one image as scalars; map over keys for a batch.

    Blur is isotropic or, with probability `recipe.anisotropic`, anisotropic. Both widths, the angle
    in [-pi, pi), r, delta and q are uniform. The small side is int(image_size / r), at least
    MINIMUM_SMALL_SIZE.

    Args:
        key: typed key.
        recipe: ranges to draw from.
        image_size: side of the image in pixels.

    Raises:
        ValueError: for an image_size below MINIMUM_IMAGE_SIZE.
    """
    _check_size(image_size)
    key = threefry_keys(key)
    keys = jax.random.split(key, 7)

    def uniform(index: int, bounds: Array) -> Array:
        return jax.random.uniform(keys[index], (), jnp.float32, bounds[0], bounds[1])

    drawn = Parameters(corruptions=draw_corruptions(key, recipe.corruptions, image_size))
    if recipe.downsample is None:
        return drawn
    side = (image_size / uniform(4, recipe.downsample)).astype(jnp.int32)
    drawn = drawn.replace(small_size=jnp.clip(side, MINIMUM_SMALL_SIZE, image_size))
    if recipe.second_order is not None:
        stream = jax.random.fold_in(key, _SECOND_ORDER)
        rounds = draw_rounds(stream, recipe.second_order, image_size, drawn.small_size)
        return drawn.replace(rounds=rounds)
    anisotropic = jax.random.uniform(keys[0], (), jnp.float32) < recipe.anisotropic
    sigma_x = uniform(1, recipe.blur_sigma)
    sigma_y = uniform(2, recipe.blur_sigma)
    theta = jax.random.uniform(keys[3], (), jnp.float32, -np.pi, np.pi)
    return drawn.replace(
        sigma_x=sigma_x,
        sigma_y=jnp.where(anisotropic, sigma_y, sigma_x),
        theta=jnp.where(anisotropic, theta, 0.0),
        noise_sigma=uniform(5, recipe.noise) / 255.0,
        jpeg_quality=uniform(6, recipe.jpeg_quality).astype(jnp.int32),
    )


def apply(
    images: AnyArray,
    parameters: Parameters,
    noise: AnyArray | None,
    *,
    gradient: Gradient = "zero",
) -> Float[Array, "b s s 3"]:
    """Degrades a batch with given parameters and noise.

    Args:
        images: [b, s, s, 3] float32 in [0, 1], s at least MINIMUM_IMAGE_SIZE.
        parameters: arrays [b], as `draw` returns them under `jax.vmap`.
        noise: standard normal deviates. Kind 'blind' takes [b, s, s, 3], of which an image uses its
            top-left `small_size` square. 'second_order' takes [b, c, c, 6] with c = 1.5 s rounded
            up, three channels per round. 'clean' takes None.
        gradient: gradient of the roundings, 'zero' or 'straight_through' (see `ops.rounding`).

    Returns:
        [b, s, s, 3], multiples of 1/255 in [0, 1].

    Raises:
        ValueError: for images that are not a batch of square RGB images, or too small.
        TypeError: for images that are not float32.
    """
    images = _as_squares(images)
    noise = None if noise is None else jnp.asarray(noise)
    return _corrupt(images, parameters, noise, _corner, gradient)


def degrade(
    images: AnyArray,
    keys: AnyArray,
    recipe: Recipe,
    *,
    gradient: Gradient = "zero",
) -> Float[Array, "b s s 3"]:
    """Degrades a batch with parameters and noise drawn from one key per image.

    The result for an image does not depend on the other images. A batch of another size is compiled
    separately, which may move a few pixels by a rounding.

    Args:
        images: [b, s, s, 3] float32 in [0, 1], s at least MINIMUM_IMAGE_SIZE.
        keys: typed keys [b] of any implementation.
        recipe: ranges to draw from.
        gradient: gradient of the roundings, see `apply`.

    Returns:
        [b, s, s, 3], multiples of 1/255 in [0, 1].

    Raises:
        ValueError, TypeError: see `apply`.
    """
    images = _as_squares(images)
    size = images.shape[1]
    streams = jax.vmap(jax.random.split)(as_keys(keys, images.shape[0]))
    parameters = jax.vmap(lambda key: draw(key, recipe, size))(streams[:, 0])
    return _corrupt(images, parameters, streams[:, 1], _drawn, gradient)


def _corner(noise: Array, canvas: int, channels: int = 3) -> Array:
    return noise[:, :canvas, :canvas, :channels]


def _drawn(keys: Array, canvas: int, channels: int = 3) -> Array:
    return standard_normal(keys, canvas, canvas, channels)


def _corrupt(
    images: Array, p: Parameters, source: Any, noise: Callable[..., Array], gradient: Gradient
) -> Array:
    """Degrades a batch; `noise(source, canvas, channels)` returns standard normal deviates."""

    def corrupt(images: Array, p: Parameters, source: Any) -> Array:
        return _corrupt_batch(images, p, source, noise, gradient)

    return on_each_device(corrupt, images, p, source)


def _corrupt_batch(
    images: Array, p: Parameters, source: Any, noise: Callable[..., Array], gradient: Gradient
) -> Array:
    images = apply_corruptions("before", images, p.corruptions)
    if p.rounds is not None:
        images = apply_rounds(images, p.rounds, p.small_size, source, noise, gradient)
    elif p.small_size is not None:
        images = blind.corrupt(images, p, source, noise, gradient)
    in_8_bits = p.rounds is None and p.small_size is not None
    if not in_8_bits or in_place("after", p.corruptions):
        images = apply_corruptions("after", images, p.corruptions)
        images = to_8_bits(images, gradient=gradient)
    return apply_corruptions("last", images, p.corruptions)


def _check_size(size: int) -> None:
    if size < MINIMUM_IMAGE_SIZE:
        raise ValueError(
            f"Images have {size} pixels a side: a {KERNEL_SIZE}x{KERNEL_SIZE} blur with reflected "
            f"borders needs at least {MINIMUM_IMAGE_SIZE}; enlarge them first."
        )


def _as_squares(images: AnyArray) -> Float[Array, "b s s 3"]:
    images = as_images(images, low=0)
    if images.shape[1] != images.shape[2]:
        height, width = images.shape[1:3]
        raise ValueError(
            f"images have {height}x{width} px; expected squares: crop or pad them to one"
        )
    if images.dtype != jnp.float32:
        raise TypeError(
            f'images are {images.dtype}; pass float32 in [0, 1]: images.astype("float32")'
        )
    _check_size(images.shape[1])
    return images
