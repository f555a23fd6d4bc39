"""The degradation that training images go through: blur, downsample, noise, JPEG, upsample.

`x -> round8(((x * k_sigma) down r + n_delta)_JPEG_q up r)`, CodeFormer (arXiv 2206.11253).

Layout: [b, s, s, 3] RGB in [0, 1], float32, square. Everything runs on the device with static
shapes: the small image is the top-left corner of a canvas as large as the image, or, where images
are large and the device is a CPU, of the smallest of a few canvases that holds it. Blur widths are
in pixels of the image given and r divides its side, at any size: nothing is scaled to 512 px behind
the caller's back. One key per image: what becomes of an image depends on its key and pixels only.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Key, Shaped

from codeformer_jax.ops.blur import filter2d, gaussian_kernels
from codeformer_jax.ops.jpeg import jpeg
from codeformer_jax.ops.random import standard_normal
from codeformer_jax.ops.resize import resize_bilinear
from codeformer_jax.ops.rounding import Gradient, to_8_bits

KERNEL_SIZE = 41
# Reflected borders need images larger than half a kernel.
MINIMUM_IMAGE_SIZE = KERNEL_SIZE // 2 + 1
# r may exceed the side of a small image; one pixel is then left.
MINIMUM_SMALL_SIZE = 1
# Up to here a canvas of the image's size costs less than one for each image.
_LARGEST_COMMON_CANVAS = 128

# Lowest and highest value that makes sense for each range of a recipe.
_LIMITS = {
    "blur_sigma": (0.01, 1000.0),
    "downsample": (1.0, 10000.0),
    "noise": (0.0, 255.0),
    "jpeg_quality": (1.0, 100.0),
}

# Ranges for 512 px: of stage II, of stage III, and of the paper's test set (section 4.1).
RECIPES = {
    "large": {
        "blur_sigma": (1.0, 15.0),
        "downsample": (4.0, 30.0),
        "noise": (0.0, 20.0),
        "jpeg_quality": (30, 80),
    },
    "small": {
        "blur_sigma": (0.1, 10.0),
        "downsample": (1.0, 12.0),
        "noise": (0.0, 15.0),
        "jpeg_quality": (60, 100),
    },
    "celeba-test": {
        "blur_sigma": (1.0, 15.0),
        "downsample": (1.0, 30.0),
        "noise": (0.0, 20.0),
        "jpeg_quality": (30, 90),
    },
}


@struct.dataclass
class Recipe:
    """Ranges that parameters are drawn from, as traced arrays: another recipe does not recompile.

    Build one with `Recipe.create`, which checks the values, `from_config` or `named`.

    Attributes:
      blur_sigma: [2] low and high standard deviation of the blur, in pixels.
      anisotropic: [] probability of two different widths at an angle instead of a round blur.
      downsample: [2] low and high factor r.
      noise: [2] low and high standard deviation, in levels of 255.
      jpeg_quality: [2] low and high quality; the drawn value is truncated to an integer.
    """

    blur_sigma: Any
    anisotropic: Any
    downsample: Any
    noise: Any
    jpeg_quality: Any

    @classmethod
    def create(
        cls,
        *,
        blur_sigma: Sequence[float | int],
        downsample: Sequence[float | int],
        noise: Sequence[float | int],
        jpeg_quality: Sequence[float | int],
        anisotropic: float | int = 0.5,
    ) -> "Recipe":
        """A recipe from (low, high) pairs; low == high fixes a value.

        Raises ValueError where a pair is not two ordered numbers within what makes sense.
        """
        given = {
            "blur_sigma": blur_sigma,
            "downsample": downsample,
            "noise": noise,
            "jpeg_quality": jpeg_quality,
        }
        ranges = {name: _checked_range(name, value) for name, value in given.items()}
        if not 0.0 <= anisotropic <= 1.0:
            raise ValueError(f"anisotropic is {anisotropic}: expected a probability in [0, 1].")
        return cls(anisotropic=jnp.float32(anisotropic), **ranges)

    @classmethod
    def named(cls, name: str) -> "Recipe":
        """One of `RECIPES`. Raises ValueError for another name."""
        if name not in RECIPES:
            raise ValueError(f"no recipe is named {name!r}; expected one of {', '.join(RECIPES)}")
        return cls.from_config(RECIPES[name])

    @classmethod
    def from_config(cls, config: Any) -> "Recipe":
        """A recipe from a dict or ConfigDict with the arguments of `create`.

        Raises ValueError that lists missing and unknown names.
        """
        values = dict(config.items())
        missing = sorted(set(_LIMITS) - set(values))
        unknown = sorted(set(values) - set(_LIMITS) - {"anisotropic"})
        if missing or unknown:
            raise ValueError(
                f"A degradation needs {sorted(_LIMITS)} and may have 'anisotropic': "
                f"missing {missing}, unknown {unknown}."
            )
        return cls.create(**values)


@struct.dataclass
class Parameters:
    """What was drawn for each image: scalars, or arrays [b] for a batch.

    Attributes:
      sigma_x, sigma_y: float32, blur widths in pixels along and across `theta`.
      theta: float32, radians.
      small_size: int32, side of the downsampled image.
      noise_sigma: float32, standard deviation in [0, 1] units.
      jpeg_quality: int32, 1..100.
    """

    sigma_x: Any
    sigma_y: Any
    theta: Any
    small_size: Any
    noise_sigma: Any
    jpeg_quality: Any


def draw(key: Key[Array, ""], recipe: Recipe, image_size: int) -> Parameters:
    """Scalar parameters for one image of side `image_size`; map over keys for a batch.

    Isotropic and anisotropic blur are drawn as `recipe.anisotropic` says; both widths, the angle in
    [-pi, pi), r, delta and q are uniform. The small side is int(image_size / r), at least
    MINIMUM_SMALL_SIZE.

    Raises:
      ValueError: image_size below MINIMUM_IMAGE_SIZE.
    """
    _check_size(image_size)
    keys = jax.random.split(key, 7)

    def uniform(index: int, bounds: Array) -> Array:
        return jax.random.uniform(keys[index], (), jnp.float32, bounds[0], bounds[1])

    anisotropic = jax.random.uniform(keys[0], (), jnp.float32) < recipe.anisotropic
    sigma_x = uniform(1, recipe.blur_sigma)
    sigma_y = uniform(2, recipe.blur_sigma)
    theta = jax.random.uniform(keys[3], (), jnp.float32, -np.pi, np.pi)
    side = (image_size / uniform(4, recipe.downsample)).astype(jnp.int32)
    return Parameters(
        sigma_x=sigma_x,
        sigma_y=jnp.where(anisotropic, sigma_y, sigma_x),
        theta=jnp.where(anisotropic, theta, 0.0),
        small_size=jnp.clip(side, MINIMUM_SMALL_SIZE, image_size),
        noise_sigma=uniform(5, recipe.noise) / 255.0,
        jpeg_quality=uniform(6, recipe.jpeg_quality).astype(jnp.int32),
    )


def apply(
    images: Shaped[Array, "..."],
    parameters: Parameters,
    noise: Float[Array, "b s s 3"],
    *,
    gradient: Gradient = "zero",
) -> Float[Array, "b s s 3"]:
    """Degrade a batch with given parameters and noise.

    Args:
      images: [b, s, s, 3] float32 in [0, 1], s at least MINIMUM_IMAGE_SIZE.
      parameters: arrays [b].
      noise: standard normal; an image uses its top-left `small_size` square.
      gradient: of the roundings, 'zero' or 'straight_through' (see `ops.jpeg`).

    Returns:
      Same shape, multiples of 1/255 in [0, 1].

    Raises:
      ValueError: images that are not a batch of square RGB pictures, or too small.
      TypeError: images that are not float32.
    """
    _check_images(images)
    return _corrupt(images, parameters, noise, _corner, gradient)


def degrade(
    images: Shaped[Array, "..."],
    keys: Key[Array, "b"],
    recipe: Recipe,
    *,
    gradient: Gradient = "zero",
) -> Float[Array, "b s s 3"]:
    """Degrade a batch [b, s, s, 3] with parameters and noise drawn from one key per image.

    See `apply` for ranges and errors. The result for an image depends on neither the others nor its
    place; a batch of another size is compiled anew, which may move a few pixels by a rounding.
    """
    _check_images(images)
    if keys.shape != images.shape[:1]:
        raise ValueError(
            f"{keys.shape} keys for {images.shape[0]} images: expected one key per image, "
            "such as jax.random.split(key, batch)."
        )
    size = images.shape[1]
    streams = jax.vmap(jax.random.split)(keys)
    parameters = jax.vmap(lambda key: draw(key, recipe, size))(streams[:, 0])
    return _corrupt(images, parameters, streams[:, 1], _drawn, gradient)


def _corner(noise: Array, canvas: int) -> Array:
    return noise[:, :canvas, :canvas]


def _drawn(keys: Array, canvas: int) -> Array:
    return standard_normal(keys, canvas, canvas, 3)


def _corrupt(
    images: Array,
    parameters: Parameters,
    source: Array,
    noise: Callable[[Array, int], Array],
    gradient: Gradient,
) -> Array:
    """`noise(source, canvas)` is that of a batch, [b, canvas, canvas, 3]."""
    size = images.shape[1]
    canvases = _canvases(size)

    def blur(images, parameters):
        kernels = gaussian_kernels(
            parameters.sigma_x, parameters.sigma_y, parameters.theta, size=KERNEL_SIZE
        )
        return filter2d(images, kernels, symmetric=True)

    def code(canvas, blurred, parameters, source):
        side = parameters.small_size
        full = jnp.full_like(side, size)
        small = resize_bilinear(blurred, full, full, side, side, canvas=(canvas, canvas))
        deviation = parameters.noise_sigma[:, None, None, None]
        noisy = jnp.clip(small + noise(source, canvas) * deviation, 0.0, 1.0)
        coded = jpeg(noisy, parameters.jpeg_quality, side, side, gradient=gradient)
        restored = resize_bilinear(coded, side, side, full, full, canvas=(size, size))
        return to_8_bits(restored, gradient=gradient)

    def together(images, parameters, source):
        return code(size, blur(images, parameters), parameters, source)

    def one(example):
        images, parameters, source = jax.tree.map(lambda x: x[None], example)
        fits = jnp.searchsorted(jnp.asarray(canvases), parameters.small_size[0])
        branches = [partial(code, canvas) for canvas in canvases]
        return jax.lax.switch(fits, branches, blur(images, parameters), parameters, source)[0]

    batch = (images, parameters, source)
    if len(canvases) == 1:
        return together(*batch)
    # An accelerator wants the batch in one piece. A CPU has to save work and to stay in its cache:
    # one large picture after the other takes half the time.
    return jax.lax.platform_dependent(
        *batch, cpu=lambda *batch: jax.lax.map(one, batch), default=together
    )


def _canvases(size: int) -> list[int]:
    """Sides of the canvases for small images, rising to `size`."""
    canvases = [size]
    while canvases[0] > _LARGEST_COMMON_CANVAS:
        canvases.insert(0, -(-canvases[0] // 2))
    return canvases


def _checked_range(name: str, value: Any) -> Array:
    pair = np.asarray(value, np.float64)
    low, high = _LIMITS[name]
    if pair.shape != (2,) or not low <= pair[0] <= pair[1] <= high:
        raise ValueError(
            f"{name} is {value!r}: expected (low, high) with {low:g} <= low <= high <= {high:g}."
        )
    return jnp.asarray(pair, jnp.float32)


def _check_size(size: int) -> None:
    if size < MINIMUM_IMAGE_SIZE:
        raise ValueError(
            f"Images have {size} pixels a side: a {KERNEL_SIZE}x{KERNEL_SIZE} blur with reflected "
            f"borders needs at least {MINIMUM_IMAGE_SIZE}; enlarge them first."
        )


def _check_images(images: Array) -> None:
    shape = images.shape
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3:
        raise ValueError(
            f"Images have shape {shape}: expected [batch, side, side, 3]; add a batch axis or crop "
            "to a square."
        )
    if images.dtype != jnp.float32:
        raise TypeError(
            f"Images are {images.dtype}: expected float32 in [0, 1]; divide uint8 values by 255."
        )
    _check_size(shape[1])
