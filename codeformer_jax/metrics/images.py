"""Distances of image batches [b, h, w, 3], RGB floats in [0, 1], one number per image.

Each raises ValueError for wrong shapes and TypeError for wrong types.
"""

import dm_pix
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from codeformer_jax.ops.checks import AnyArray, as_images, as_pair

# dB. Equal images have an infinite PSNR, which would make a mean infinite. Different 8-bit images
# of up to 220 x 220 px always stay below this.
PSNR_CEILING = 100.0

_SSIM_WINDOW = 11
# BT.601 luma of RGB in [0, 1], in levels of 255 (black 16, white 235).
_LUMA = (65.481, 128.553, 24.966)
_LUMA_OFFSET = 16.0


def psnr(images: AnyArray, targets: AnyArray) -> Float[Array, "b"]:
    """Returns the peak signal-to-noise ratio over all channels, -10 log10(mse).

    Args:
        images: images under test [b, h, w, c].
        targets: true images of the same shape.

    Returns:
        PSNR of each image in dB, at most PSNR_CEILING.
    """
    images, targets = _pair(images, targets)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return jnp.minimum(dm_pix.psnr(images, targets), PSNR_CEILING)


def psnr_y(images: AnyArray, targets: AnyArray, border: int = 0) -> Float[Array, "b"]:
    """Returns the PSNR of the BT.601 luma (16..235 of 255).

    Args:
        images: images under test [b, h, w, 3].
        targets: true images of the same shape.
        border: pixels to leave out at each side.

    Returns:
        PSNR of each image in dB, at most PSNR_CEILING.

    Raises:
        ValueError: the border leaves no pixels.
    """
    images, targets = _pair(images, targets, channels=3)
    height, width = images.shape[1:3]
    if border < 0 or 2 * border >= min(height, width):
        raise ValueError(f"border={border} leaves nothing of images of {height}x{width} px")
    inner = (slice(None), slice(border, height - border), slice(border, width - border))
    return psnr(_luma(images[inner]), _luma(targets[inner]))


def ssim(images: AnyArray, targets: AnyArray) -> Float[Array, "b"]:
    """Returns the structural similarity (Wang et al. 2004), 1 for equal images.

    It is the mean over channels and 11x11 Gaussian windows that lie inside the image.

    Args:
        images: images under test [b, h, w, c].
        targets: true images of the same shape.

    Raises:
        ValueError: images with a side below 11 px.
    """
    images, targets = _pair(images, targets)
    if min(images.shape[1:3]) < _SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs images of at least {_SSIM_WINDOW}x{_SSIM_WINDOW} px; "
            f"got {images.shape[1]}x{images.shape[2]}"
        )
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return dm_pix.ssim(images, targets)


def _pair(images, targets, channels=None) -> tuple[Array, Array]:
    """Returns both as JAX arrays. Raises ValueError or TypeError for other than image batches."""
    given = {"images": images, "targets": targets}
    for name, array in given.items():
        as_images(array, name, low=0, channels=channels, dtype=array.dtype)
    return as_pair(**given)


def _luma(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 1"]:
    weights = jnp.array(_LUMA, jnp.float32) / 255
    luma = jnp.tensordot(images, weights, axes=1, precision=jax.lax.Precision.HIGHEST)
    return luma[..., None] + _LUMA_OFFSET / 255
