"""Distances of image batches [b, h, w, 3], RGB floats in [0, 1], one number per image.

Each raises ValueError or TypeError for arrays of another form, saying what to pass.
"""

import dm_pix
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from codeformer_jax.ops.checks import AnyArray, as_images, as_pair

# dB. Equal images have no finite PSNR, and one infinity would hide every other image in a mean;
# different 8-bit images of up to 220 x 220 px always stay below it.
PSNR_CEILING = 100.0

_SSIM_WINDOW = 11
# BT.601 luma of RGB in [0, 1], in levels of 255 (black 16, white 235).
_LUMA = (65.481, 128.553, 24.966)
_LUMA_OFFSET = 16.0


def psnr(images: AnyArray, targets: AnyArray) -> Float[Array, "b"]:
    """Peak signal-to-noise ratio over all channels in dB, -10 log10(mse), at most PSNR_CEILING."""
    images, targets = _pair(images, targets)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return jnp.minimum(dm_pix.psnr(images, targets), PSNR_CEILING)


def psnr_y(images: AnyArray, targets: AnyArray, border: int = 0) -> Float[Array, "b"]:
    """PSNR in dB of the BT.601 luma (16..235 of 255), without `border` pixels at each side.

    Raises ValueError where the border leaves nothing.
    """
    images, targets = _pair(images, targets, channels=3)
    height, width = images.shape[1:3]
    if border < 0 or 2 * border >= min(height, width):
        raise ValueError(f"border={border} leaves nothing of images of {height}x{width} px")
    inner = (slice(None), slice(border, height - border), slice(border, width - border))
    return psnr(_luma(images[inner]), _luma(targets[inner]))


def ssim(images: AnyArray, targets: AnyArray) -> Float[Array, "b"]:
    """Structural similarity (Wang et al. 2004), mean over channels and 11x11 Gaussian windows.

    Windows lie inside the image; 1 for equal images. Raises ValueError below 11 px.
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
    """The two as JAX arrays; raises ValueError or TypeError where they are no such batches."""
    given = {"images": images, "targets": targets}
    for name, array in given.items():
        as_images(array, name, low=0, channels=channels, dtype=array.dtype)
    return as_pair(**given)


def _luma(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 1"]:
    weights = jnp.array(_LUMA, jnp.float32) / 255
    luma = jnp.tensordot(images, weights, axes=1, precision=jax.lax.Precision.HIGHEST)
    return luma[..., None] + _LUMA_OFFSET / 255
