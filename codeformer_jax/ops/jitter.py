"""Random changes of brightness, contrast, saturation and hue.

Layout: [b, h, w, 3] RGB in [0, 1], float32; one factor per image; results are clipped to [0, 1].
The four adjustments equal those of torchvision's `ColorJitter` on floating-point images.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# ITU-R BT.601.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def luma(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 1"]:
    """Returns 0.299 R + 0.587 G + 0.114 B."""
    red, green, blue = (LUMA[i] * images[..., i : i + 1] for i in range(3))
    return red + green + blue


def to_gray(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Returns the luma in all three channels."""
    return jnp.broadcast_to(luma(images), images.shape)


def adjust_brightness(
    images: Float[Array, "b h w 3"], factor: Float[Array, "b"]
) -> Float[Array, "b h w 3"]:
    """Multiplies every value: 0 is black, 1 changes nothing.

    Args:
        images: [b, h, w, 3] in [0, 1].
        factor: from 0, one per image.
    """
    return _blend(images, jnp.zeros_like(images), factor)


def adjust_contrast(
    images: Float[Array, "b h w 3"], factor: Float[Array, "b"]
) -> Float[Array, "b h w 3"]:
    """Scales every difference from the mean luma: 0 is uniform gray, 1 changes nothing.

    Args:
        images: [b, h, w, 3] in [0, 1].
        factor: from 0, one per image.
    """
    mean = jnp.mean(luma(images), axis=(1, 2, 3), keepdims=True)
    return _blend(images, jnp.broadcast_to(mean, images.shape), factor)


def adjust_saturation(
    images: Float[Array, "b h w 3"], factor: Float[Array, "b"]
) -> Float[Array, "b h w 3"]:
    """Scales every difference from the pixel's luma: 0 is gray, 1 changes nothing.

    Args:
        images: [b, h, w, 3] in [0, 1].
        factor: from 0, one per image.
    """
    return _blend(images, to_gray(images), factor)


def adjust_hue(
    images: Float[Array, "b h w 3"], shift: Float[Array, "b"]
) -> Float[Array, "b h w 3"]:
    """Rotates the hue (of HSV).

    Args:
        images: [b, h, w, 3] in [0, 1].
        shift: fraction of a full turn in [-0.5, 0.5], one per image; 0 changes nothing.
    """
    value = jnp.max(images, axis=-1)
    chroma = value - jnp.min(images, axis=-1)
    red, green, blue = (images[..., i] for i in range(3))
    scale = jnp.where(chroma > 0, chroma, 1.0)
    # Hue in sixths of a turn.
    sixths = jnp.where(
        red == value,
        (green - blue) / scale,
        jnp.where(green == value, 2.0 + (blue - red) / scale, 4.0 + (red - green) / scale),
    )
    sixths = sixths + 6.0 * shift[:, None, None]

    def channel(offset: float) -> Array:
        place = jnp.mod(offset + sixths, 6.0)
        return value - chroma * jnp.clip(jnp.minimum(place, 4.0 - place), 0.0, 1.0)

    turned = jnp.stack([channel(5.0), channel(3.0), channel(1.0)], axis=-1)
    return jnp.where((shift == 0)[:, None, None, None], images, turned)


def colour_jitter(
    images: Float[Array, "b h w 3"],
    brightness: Float[Array, "b"],
    contrast: Float[Array, "b"],
    saturation: Float[Array, "b"],
    hue: Float[Array, "b"],
    order: Int[Array, "b 4"],
) -> Float[Array, "b h w 3"]:
    """Returns images after the four adjustments, each image in its own order.

    Args:
        images: [b, h, w, 3] in [0, 1].
        brightness, contrast, saturation: factors from 0; 1 changes nothing.
        hue: fraction of a turn in [-0.5, 0.5]; 0 changes nothing.
        order: permutation of BRIGHTNESS, CONTRAST, SATURATION, HUE for each image.
    """
    for place in range(4):
        kind = order[:, place]
        # All but the hue are one blend, so every place costs one blend and one rotation.
        mean = jnp.mean(luma(images), axis=(1, 2, 3), keepdims=True)
        target = jnp.where(_each(kind == SATURATION), to_gray(images), 0.0)
        target = jnp.where(_each(kind == CONTRAST), mean, target)
        factor = jnp.where(kind == SATURATION, saturation, 1.0)
        factor = jnp.where(kind == CONTRAST, contrast, factor)
        factor = jnp.where(kind == BRIGHTNESS, brightness, factor)
        turned = adjust_hue(images, jnp.where(kind == HUE, hue, 0.0))
        images = jnp.where(_each(kind == HUE), turned, _blend(images, target, factor))
    return images


def _each(x: Array) -> Array:
    return x[:, None, None, None]


def _blend(images: Array, target: Array, factor: Array) -> Array:
    factor = _each(factor)
    return jnp.clip(factor * images + (1.0 - factor) * target, 0.0, 1.0)
