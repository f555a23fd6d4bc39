"""Per-image Gaussian and motion blur kernels, and the filter that applies them like cv2.filter2D.

Layout: images [b, h, w, c] in any value range, kernels [b, k, k]; float32. Sigmas are in pixels,
angles in radians. The border is reflect-101: the edge pixel is not repeated.

Motion blur follows the path of a shaking camera during one exposure: [steps, 2] of (x, y) in
pixels. Model: Boracchi and Foi, "Modeling the Performance of Image Restoration from Motion Blur"
(IEEE Transactions on Image Processing, 2012). A particle of constant speed changes direction at
random, is pulled back towards the start and sometimes reverses. The constants are this project's.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jaxtyping import Array, Float, Key

Method = Literal["auto", "matmul", "fft"]

# On two CPU cores, 16 images of 64 px take 3 ms by matrices, 6.5 ms by FFT and 357 ms as a
# depthwise convolution. At 128 px matrices take 10 ms and the FFT 20 ms; at 256 px the FFT is
# faster.
_LARGEST_SIDE_BY_MATMUL = 128

# Steps of a path of motion.
STEPS = 128
# Upper ends of uniform draws from 0, one for each path.
TREMOR = 3.0  # Radians that the direction wanders over the whole path.
PULL = 8.0  # Radians per path, at a distance of the whole length.
JERKS = 1.0  # Expected number of abrupt turns.


def gaussian_kernels(
    sigma_x: Float[Array, "b"],
    sigma_y: Float[Array, "b"],
    theta: Float[Array, "b"],
    *,
    size: int = 41,
) -> Float[Array, "b size size"]:
    """Returns Gaussian kernels that sum to 1.

    Args:
        sigma_x: standard deviation in pixels, above 0, along the direction (cos theta, sin theta),
            with x to the right and y down.
        sigma_y: standard deviation in pixels, above 0, across that direction.
        theta: angle in radians.
        size: side of the kernels, odd.

    Raises:
        ValueError: for an even size.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"Kernel size is {size}: expected an odd number of pixels.")
    axis = jnp.arange(size, dtype=jnp.float32) - size // 2
    x, y = axis[None, None, :], axis[None, :, None]
    cos, sin = jnp.cos(theta)[:, None, None], jnp.sin(theta)[:, None, None]
    along = (cos * x + sin * y) / sigma_x[:, None, None]
    across = (cos * y - sin * x) / sigma_y[:, None, None]
    kernels = jnp.exp(-0.5 * (along**2 + across**2))
    return kernels / jnp.sum(kernels, axis=(1, 2), keepdims=True)


def filter2d(
    images: Float[Array, "b h w c"],
    kernels: Float[Array, "b k k"],
    *,
    method: Method = "auto",
    symmetric: bool = False,
) -> Float[Array, "b h w c"]:
    """Returns every image correlated with its own kernel, with reflect-101 borders.

    Args:
        images: [b, h, w, c]; h and w must exceed half the kernel (20 for 41).
        kernels: [b, k, k], k odd.
        method: 'matmul' (three small matrix products, fastest up to 128 px on a CPU), 'fft' or
            'auto'. They agree within 5e-6 of the value range.
        symmetric: whether every kernel equals itself rotated by 180 degrees, as Gaussians do. This
            saves a quarter of the work of 'matmul' and a sixth of that of 'fft'.

    Raises:
        ValueError: for an even kernel, or images too small to be reflected.
    """
    height, width = images.shape[1:3]
    size = kernels.shape[1]
    if size % 2 == 0:
        raise ValueError(f"Kernels are {size}x{size}: expected an odd side.")
    if min(height, width) <= size // 2:
        raise ValueError(
            f"Images are {height}x{width}: a {size}x{size} kernel with reflected borders needs "
            f"sides above {size // 2} pixels; enlarge the images or use a smaller kernel."
        )
    if method not in get_args(Method):
        raise ValueError(f"method is {method!r}: expected one of {get_args(Method)}.")
    small = max(height, width) <= _LARGEST_SIDE_BY_MATMUL
    if method == "matmul" or (method == "auto" and small):
        return _filter_by_matmul(images, kernels, symmetric)
    return _filter_by_fft(images, kernels, symmetric)


def _filter_by_fft(images: Array, kernels: Array, symmetric: bool) -> Array:
    height, width = images.shape[1:3]
    half = kernels.shape[1] // 2
    shape = tuple(_fast_length(side + 2 * half) for side in (height, width))
    # The reflection fills the fast length, since padding with zeros would cost another copy. The
    # end of the signal wraps around into rows and columns that are cut off below. A gather takes
    # half the time of `jnp.pad`.
    rows, columns = (
        _reflected(side, half, length - side - half)
        for side, length in zip((height, width), shape, strict=True)
    )
    padded = jnp.moveaxis(images, 3, 1)
    padded = padded.at[:, :, :, columns].get(mode="promise_in_bounds")
    padded = padded.at[:, :, rows].get(mode="promise_in_bounds")
    spectrum = jnp.fft.rfft2(padded)
    if symmetric:
        gains, start = _real_spectrum(kernels, shape)[:, None], half
        spectrum = jax.lax.complex(spectrum.real * gains, spectrum.imag * gains)
    else:
        gains, start = jnp.fft.rfft2(kernels[:, ::-1, ::-1], s=shape)[:, None], 2 * half
        spectrum = spectrum * gains
    filtered = jnp.fft.irfft2(spectrum, s=shape)
    return jnp.moveaxis(filtered[:, :, start : start + height, start : start + width], 1, 3)


def _reflected(side: int, before: int, after: int) -> np.ndarray:
    """Returns the index of the pixel at each place of a reflect-101 row with its margins.

    Beyond a second reflection, which only reaches rows that are cut off, it is the edge pixel.
    """
    index = np.abs(np.arange(-before, side + after))
    return np.clip(np.where(index < side, index, 2 * (side - 1) - index), 0, side - 1)


def _real_spectrum(kernels: Array, shape: tuple[int, int]) -> Array:
    """Returns `rfft2` of even kernels centred on the origin, which is a sum of cosines.

    cos(a + b) takes two small matrix products, in half the time of the transform.
    """
    taps = np.arange(kernels.shape[1]) - kernels.shape[1] // 2
    down = 2 * np.pi * np.outer(np.fft.fftfreq(shape[0]), taps)
    across = 2 * np.pi * np.outer(np.fft.rfftfreq(shape[1]), taps)
    down = np.stack([np.cos(down), -np.sin(down)]).astype(np.float32)
    across = np.stack([np.cos(across), np.sin(across)]).astype(np.float32)
    return _product("bspc,sqc->bpq", _product("spa,bac->bspc", down, kernels), across)


def _filter_by_matmul(images: Array, kernels: Array, symmetric: bool) -> Array:
    """Filters in the cosine basis of the reflected image.

    A reflect-101 image is even with period 2(n-1), so it is a sum of cosines cos(w y) cos(v x).
    Correlation with a tap at (a, c) turns cos(w y) into cos(w y) cos(w a) - sin(w y) sin(w a), so
    the kernel acts on each coefficient through its four cosine and sine sums. The two mixed sums
    vanish for a kernel that equals itself rotated by 180 degrees.
    """
    rows = _Basis(images.shape[1], kernels.shape[1])
    columns = _Basis(images.shape[2], kernels.shape[1])
    gains = _product("pka,bac,qlc->pqbkl", rows.taps, kernels, columns.taps)[..., None]
    coefficients = _product("ky,byxc,lx->bklc", rows.analysis, images, columns.analysis)

    def back(gain, row_basis, column_basis):
        return _product("yk,bklc,xl->byxc", row_basis, gain * coefficients, column_basis)

    filtered = back(gains[0, 0], rows.cosines, columns.cosines)
    filtered += back(gains[1, 1], rows.sines, columns.sines)
    if not symmetric:
        filtered -= back(gains[0, 1], rows.cosines, columns.sines)
        filtered -= back(gains[1, 0], rows.sines, columns.cosines)
    return filtered


class _Basis:
    """Matrices [frequency, pixel] in, [pixel, frequency] out, [2, frequency, tap] for kernels."""

    def __init__(self, side: int, kernel_size: int):
        period = max(2 * (side - 1), 1)
        index = np.arange(side)
        weight = np.where((index == 0) | (index == side - 1), 1.0, 2.0)
        angle = 2.0 * np.pi * np.outer(index, index) / period
        tap_angle = (
            2.0 * np.pi * np.outer(index, np.arange(kernel_size) - kernel_size // 2) / period
        )
        self.analysis = (np.cos(angle) * weight).astype(np.float32)
        self.cosines = (np.cos(angle) * weight / period).astype(np.float32)
        self.sines = (np.sin(angle) * weight / period).astype(np.float32)
        self.taps = np.stack([np.cos(tap_angle), np.sin(tap_angle)]).astype(np.float32)


def _product(pattern: str, *operands) -> Array:
    return jnp.einsum(pattern, *operands, precision=Precision.HIGHEST)


def _fast_length(length: int) -> int:
    """Returns the smallest length >= `length` without prime factors above 7, which FFTs favour."""
    while True:
        rest = length
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1


def motion_path(key: Key[Array, ""], length: Float[Array, ""]) -> Float[Array, "steps 2"]:
    """Returns a random path with its mean at (0, 0).

    Args:
        key: threefry key.
        length: length of the path in pixels.
    """
    keys = jax.random.split(key, 5)
    tremor, pull, jerks = jax.random.uniform(keys[0], (3,)) * jnp.asarray([TREMOR, PULL, JERKS])
    angle = jax.random.uniform(keys[1], (), maxval=2 * jnp.pi)
    trembles = jax.random.normal(keys[2], (STEPS - 1, 2)) * tremor / jnp.sqrt(STEPS - 1.0)
    jerked = jax.random.uniform(keys[3], (STEPS - 1,)) * (STEPS - 1) < jerks
    turned = jax.random.uniform(keys[4], (STEPS - 1,), minval=-0.5, maxval=0.5) + jnp.pi

    def go(carry: tuple[Array, Array], step: tuple[Array, Array, Array]):
        place, direction = carry
        tremble, jerk, turn = step
        cos, sin = jnp.cos(turn), jnp.sin(turn)
        x, y = direction[0], direction[1]
        thrown = jnp.stack([cos * x - sin * y, sin * x + cos * y])
        direction = jnp.where(jerk, thrown, direction) + tremble - pull / (STEPS - 1) * place
        direction = direction / jnp.maximum(jnp.linalg.norm(direction), 1e-6)
        place = place + direction / (STEPS - 1)
        return (place, direction), place

    start = jnp.zeros(2), jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    _, places = jax.lax.scan(go, start, (trembles, jerked, turned))
    path = jnp.concatenate([jnp.zeros((1, 2)), places])
    return length * (path - jnp.mean(path, axis=0, keepdims=True))


def path_kernel(path: Float[Array, "steps 2"], *, size: int = 41) -> Float[Array, "size size"]:
    """Returns the fraction of the exposure that the path spends at each pixel, bilinearly spread.

    Args:
        path: [steps, 2]; shrunk until it fits the kernel. A path in one point is the identity.
        size: side of the kernel, odd.

    Raises:
        ValueError: for an even size.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"Kernel size is {size}: expected an odd number of pixels.")
    half = size // 2
    path = path * jnp.minimum(1.0, half / jnp.maximum(jnp.max(jnp.abs(path)), 1e-6))
    axis = jnp.arange(size, dtype=jnp.float32)[None, :] - half
    columns, rows = (jnp.maximum(0.0, 1.0 - jnp.abs(axis - path[:, i : i + 1])) for i in (0, 1))
    return jnp.matmul(rows.T, columns, precision=Precision.HIGHEST) / path.shape[0]
