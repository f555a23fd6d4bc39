"""Second-order degradation: blur, resize, noise and JPEG twice, with sharpening halos.

Real-ESRGAN (Wang et al., arXiv 2107.10833, sections 3 and 4.1), whose numbers are the defaults.
Layout: [b, s, s, 3] RGB in [0, 1], float32, square. Between the stages an image is the top-left
corner of a canvas, 1.5 times as large in the first round and as large as the image in the second;
this bounds how far a round may enlarge. The paper ends at a quarter of the side. Here the result is
resized to the image's own side, which restoration keeps.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Key

from codeformer_jax.degrade.ranges import Settings, probability, read, shares, whole, within
from codeformer_jax.ops.blur import filter2d
from codeformer_jax.ops.jpeg import jpeg
from codeformer_jax.ops.kernels import identity_kernels, shaped_kernels, sinc_kernels
from codeformer_jax.ops.noise import gaussian_noise, poisson_noise
from codeformer_jax.ops.resize import resample, resize_bilinear
from codeformer_jax.ops.rounding import Gradient

KERNEL_SIZE = 21
LARGEST_ENLARGEMENT = 1.5
IDENTITY, GAUSSIAN, GENERALIZED, PLATEAU, SINC = range(5)

# Checks and defaults of the first round.
_FIRST: Settings = {
    "blur": (probability, 1.0),  # Of any blur.
    "sinc": (probability, 0.1),  # That the blur is a sinc filter.
    "kernel_radius": (whole(1, KERNEL_SIZE // 2), (3, 10)),  # 2 radius + 1 taps a side.
    "shapes": (shares("Gaussian", "generalized Gaussian", "plateau"), (0.7, 0.15, 0.15)),
    "anisotropic": (probability, 0.31),  # Of two widths at an angle.
    "blur_sigma": (within(0.01, 1000.0), (0.2, 3.0)),  # Pixels.
    "beta_generalized": (within(0.1, 10.0), (0.5, 4.0)),  # Exponents of the shapes.
    "beta_plateau": (within(0.1, 10.0), (1.0, 2.0)),
    "resize": (shares("up", "down", "keep"), (0.2, 0.7, 0.1)),
    "scale": (within(0.01, LARGEST_ENLARGEMENT), (0.15, 1.5)),  # Smallest and largest factor.
    "gaussian": (probability, 0.5),  # Of Gaussian noise instead of Poisson noise.
    "noise": (within(0.0, 255.0), (1.0, 30.0)),  # Levels of 255.
    "poisson": (within(0.0, 100.0), (0.05, 3.0)),  # Strength, see `ops.noise`.
    "gray_noise": (probability, 0.4),  # Of the same noise in all channels.
    "jpeg_quality": (within(1.0, 100.0), (30.0, 95.0)),
}
_SECOND_DEFAULTS = {
    "blur": 0.8,
    "blur_sigma": (0.2, 1.5),
    "resize": (0.3, 0.4, 0.3),
    "scale": (0.3, 1.2),
    "noise": (1.0, 25.0),
    "poisson": (0.05, 2.5),
}
_SECOND: Settings = {
    name: (check, _SECOND_DEFAULTS.get(name, first)) for name, (check, first) in _FIRST.items()
}


# Ranges of a round, by the names in `_FIRST`.
Round = dict[str, Array]


@struct.dataclass
class SecondOrder:
    """Ranges of both rounds.

    Attributes:
        first, second: ranges of the rounds.
        final_sinc: [] probability of a last sinc filter.
        jpeg_last: [] probability of compressing after that filter instead of before it.
    """

    first: Any
    second: Any
    final_sinc: Any
    jpeg_last: Any

    @classmethod
    def from_config(cls, given: dict[str, Any]) -> "SecondOrder":
        """Returns ranges from sections 'first' and 'second' and two probabilities, all optional."""
        return cls(
            first=read("first", given.get("first", {}), _FIRST),
            second=read("second", given.get("second", {}), _SECOND),
            final_sinc=probability("final_sinc", given.get("final_sinc", 0.8)),
            jpeg_last=probability("jpeg_last", given.get("jpeg_last", 0.5)),
        )


SECTIONS = ("first", "second", "final_sinc", "jpeg_last")


@struct.dataclass
class Kernel:
    """Kernel: `shape` from IDENTITY to SINC, widths in pixels, theta and cutoff in radians."""

    shape: Any
    sigma_x: Any
    sigma_y: Any
    theta: Any
    beta: Any
    cutoff: Any
    radius: Any


@struct.dataclass
class RoundParameters:
    """Values drawn for one round; either noise_sigma or poisson is 0."""

    kernel: Any
    side: Any
    mode: Any
    noise_sigma: Any
    poisson: Any
    gray_noise: Any
    jpeg_quality: Any


@struct.dataclass
class SecondOrderParameters:
    """Values drawn for both rounds, the last sinc filter and the last resizing."""

    first: Any
    second: Any
    kernel: Any
    mode: Any
    jpeg_last: Any


def first_canvas(size: int) -> int:
    """Returns the side of the first round's canvas for images of side `size`."""
    return int(np.ceil(LARGEST_ENLARGEMENT * size))


def draw_rounds(
    key: Key[Array, ""], ranges: SecondOrder, size: int, small_size: Array
) -> SecondOrderParameters:
    """Returns the parameters of one image.

    Args:
        key: threefry key.
        ranges: ranges to draw from.
        size: side of the image.
        small_size: final side before the image is enlarged again; sides of round two vary around
        it.
    """
    keys = jax.random.split(key, 6)
    whole = jnp.asarray(size, jnp.float32)
    small = small_size.astype(jnp.float32)
    final = _draw_sinc(keys[2], jnp.asarray([3.0, KERNEL_SIZE // 2]), np.pi / 3)
    chosen = jax.random.uniform(keys[3]) < ranges.final_sinc
    return SecondOrderParameters(
        first=_draw_round(keys[0], ranges.first, whole, first_canvas(size)),
        second=_draw_round(keys[1], ranges.second, small, size),
        kernel=final.replace(shape=jnp.where(chosen, SINC, IDENTITY)),
        mode=jax.random.randint(keys[4], (), 0, 3),
        jpeg_last=jax.random.uniform(keys[5]) < ranges.jpeg_last,
    )


def apply_rounds(
    images: Float[Array, "b s s 3"],
    parameters: SecondOrderParameters,
    small_size: Array,
    source: Array,
    noise: Callable[[Array, int, int], Array],
    gradient: Gradient,
) -> Float[Array, "b s s 3"]:
    """Returns images after both rounds, resized to their own side and not rounded.

    Args:
        images: [b, s, s, 3] in [0, 1].
        parameters: arrays [b].
        small_size: final sides [b], see `draw_rounds`.
        source: keys or stored deviates, the first argument of `noise`.
        noise: function (source, canvas, 6) -> standard normal deviates, three channels per round.
        gradient: gradient of the roundings, see `ops.rounding`.
    """

    def together(*batch):
        return _apply(*batch, noise, gradient)

    def one(example):
        return together(*jax.tree.map(lambda x: x[None], example))[0]

    # One image after the other fits the cache of a CPU.
    return jax.lax.platform_dependent(
        images,
        parameters,
        small_size,
        source,
        cpu=lambda *batch: jax.lax.map(one, batch),
        default=together,
    )


def _apply(
    images: Array,
    p: SecondOrderParameters,
    small_size: Array,
    source: Array,
    noise: Callable[[Array, int, int], Array],
    gradient: Gradient,
) -> Array:
    size = images.shape[1]
    full = jnp.full_like(small_size, size)
    normal = noise(source, first_canvas(size), 6)
    x = _blur(images, full, p.first.kernel)
    x = _resize_and_add_noise(x, full, p.first, normal[..., :3])
    x = jpeg(x, p.first.jpeg_quality, p.first.side, p.first.side, gradient=gradient)
    x = _blur(x, p.first.side, p.second.kernel)
    x = _resize_and_add_noise(x, p.first.side, p.second, normal[:, :size, :size, 3:])

    def finish(x: Array) -> Array:
        x = resample(x, p.second.side, small_size, p.mode, canvas=size)
        return jnp.clip(_blur(x, small_size, p.kernel), 0.0, 1.0)

    def finish_where(chosen: Array, x: Array) -> Array:
        selected = chosen[:, None, None, None]
        return jax.lax.cond(
            jnp.any(chosen), lambda x: jnp.where(selected, finish(x), x), lambda x: x, x
        )

    # One JPEG for either order.
    x = finish_where(p.jpeg_last, x)
    side = jnp.where(p.jpeg_last, small_size, p.second.side)
    x = jpeg(x, p.second.jpeg_quality, side, side, gradient=gradient)
    x = finish_where(~p.jpeg_last, x)
    return resize_bilinear(x, small_size, small_size, full, full)


def _draw_round(key: Key[Array, ""], ranges: Round, side: Array, canvas: int) -> RoundParameters:
    keys = jax.random.split(key, 8)
    one = jnp.float32(1)
    up = _uniform(keys[0], jnp.stack([one, jnp.maximum(ranges["scale"][1], one)]))
    down = _uniform(keys[1], jnp.stack([jnp.minimum(ranges["scale"][0], one), one]))
    scale = jnp.stack([up, down, one])[_choose(keys[2], ranges["resize"])]
    gaussian = jax.random.uniform(keys[3]) < ranges["gaussian"]
    gray, mode = jax.random.split(keys[4])
    return RoundParameters(
        kernel=_draw_kernel(keys[5], ranges),
        side=jnp.clip((side * scale).astype(jnp.int32), 1, canvas),
        mode=jax.random.randint(mode, (), 0, 3),
        noise_sigma=jnp.where(gaussian, _uniform(keys[6], ranges["noise"]) / 255.0, 0.0),
        poisson=jnp.where(gaussian, 0.0, _uniform(keys[6], ranges["poisson"])),
        gray_noise=jax.random.uniform(gray) < ranges["gray_noise"],
        jpeg_quality=_uniform(keys[7], ranges["jpeg_quality"]).astype(jnp.int32),
    )


def _draw_kernel(key: Key[Array, ""], ranges: Round) -> Kernel:
    keys = jax.random.split(key, 9)
    shape = GAUSSIAN + _choose(keys[0], ranges["shapes"])
    betas = jnp.stack(
        [_uniform(keys[1], ranges["beta_generalized"]), _uniform(keys[1], ranges["beta_plateau"])]
    )
    beta = jnp.where(shape == GAUSSIAN, 1.0, betas[jnp.maximum(shape - GENERALIZED, 0)])
    sigma_x, sigma_y = (_uniform(key, ranges["blur_sigma"]) for key in keys[2:4])
    anisotropic = jax.random.uniform(keys[4]) < ranges["anisotropic"]
    theta = jax.random.uniform(keys[5], (), jnp.float32, -np.pi, np.pi)
    sinc = _draw_sinc(keys[6], ranges["kernel_radius"], np.pi / 5)
    shape = jnp.where(jax.random.uniform(keys[7]) < ranges["sinc"], SINC, shape)
    shape = jnp.where(jax.random.uniform(keys[8]) < ranges["blur"], shape, IDENTITY)
    return sinc.replace(
        shape=shape,
        sigma_x=sigma_x,
        sigma_y=jnp.where(anisotropic, sigma_y, sigma_x),
        theta=jnp.where(anisotropic, theta, 0.0),
        beta=beta,
    )


def _draw_sinc(key: Key[Array, ""], radii: Array, lowest: float) -> Kernel:
    """Draws a sinc filter; kernels of 13 taps or more may cut off as low as `lowest`."""
    keys = jax.random.split(key)
    radius = jnp.floor(jax.random.uniform(keys[0], (), jnp.float32, radii[0], radii[1] + 1.0))
    floor = jnp.where(radius < 6, np.pi / 3, lowest)
    return Kernel(
        shape=jnp.int32(SINC),
        sigma_x=jnp.float32(1),
        sigma_y=jnp.float32(1),
        theta=jnp.float32(0),
        beta=jnp.float32(1),
        cutoff=jax.random.uniform(keys[1], (), jnp.float32, floor, np.pi),
        radius=jnp.minimum(radius, radii[1]).astype(jnp.int32),
    )


def _uniform(key: Key[Array, ""], bounds: Array) -> Array:
    return jax.random.uniform(key, (), jnp.float32, bounds[0], bounds[1])


def _choose(key: Key[Array, ""], probabilities: Array) -> Array:
    """Returns an int32 index drawn with these probabilities."""
    above = jax.random.uniform(key) >= jnp.cumsum(probabilities)[:-1]
    return jnp.sum(above).astype(jnp.int32)


def _kernels(drawn: Kernel) -> Float[Array, "b k k"]:
    size = {"size": KERNEL_SIZE}
    plateau = drawn.shape == PLATEAU
    shaped = shaped_kernels(
        drawn.sigma_x, drawn.sigma_y, drawn.theta, drawn.beta, plateau, drawn.radius, **size
    )
    shape = drawn.shape[:, None, None]
    kernels = jnp.where(shape == SINC, sinc_kernels(drawn.cutoff, drawn.radius, **size), shaped)
    return jnp.where(shape == IDENTITY, identity_kernels(len(shape), KERNEL_SIZE), kernels)


def _blur(images: Array, side: Array, drawn: Kernel) -> Array:
    """Filters the corner of each canvas, reflected at its own border."""
    canvas = images.shape[1]
    place = jnp.arange(canvas + KERNEL_SIZE // 2, dtype=jnp.int32)[None, :]
    last = jnp.maximum(side - 1, 1)[:, None]
    place = jnp.minimum(last - jnp.abs(place % (2 * last) - last), side[:, None] - 1)
    images = jax.vmap(lambda image, index: image[index][:, index])(images, place)
    return filter2d(images, _kernels(drawn), symmetric=True)[:, :canvas, :canvas]


def _resize_and_add_noise(images: Array, side: Array, p: RoundParameters, normal: Array) -> Array:
    images = resample(images, side, p.side, p.mode, canvas=normal.shape[1])
    images = jnp.clip(images, 0.0, 1.0)  # Bicubic interpolation overshoots.

    def both() -> Array:
        noise = gaussian_noise(normal, p.noise_sigma, p.gray_noise)
        return noise + poisson_noise(images, normal, p.poisson, p.gray_noise)

    # A branch also keeps XLA from counting photons again for each operation that reads a pixel.
    noise = jax.lax.cond(
        jnp.any(p.poisson > 0), both, lambda: gaussian_noise(normal, p.noise_sigma, p.gray_noise)
    )
    return jnp.clip(images + noise, 0.0, 1.0)
