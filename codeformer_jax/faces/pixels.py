"""Dtypes, ranges and channels of pictures.

Pictures are gray [h, w] or RGB [h, w, 3], uint8 0..255, uint16 0..65535 or float32 0..1. Floats may
also be in the levels of another dtype, as between `in_levels` and `to_dtype`.
"""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8, UInt16

Pixels = (
    UInt8[np.ndarray, "_ _ ..."] | UInt16[np.ndarray, "_ _ ..."] | Float32[np.ndarray, "_ _ ..."]
)

# ITU-R BT.601, as everywhere in this package.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def top_level(dtype: np.dtype) -> int:
    """Returns the value of white: 255, 65535, or 1 for floats."""
    return np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1


def in_levels(pixels: Pixels, dtype: np.dtype) -> Float32[np.ndarray, "_ _ ..."]:
    """Returns pixels as floats in the levels of another dtype; the result is a copy."""
    return pixels.astype(np.float32) * np.float32(top_level(dtype) / top_level(pixels.dtype))


def to_dtype(pixels: Float32[np.ndarray, "_ _ ..."], dtype: np.dtype) -> Pixels:
    """Rounds and clips floats in the levels of a dtype; `pixels` are overwritten."""
    if dtype != np.float32:
        np.rint(pixels, out=pixels)
    np.clip(pixels, 0, top_level(dtype), out=pixels)
    return pixels.astype(dtype, copy=False)


def to_rgb8(picture: Pixels) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a picture as 8-bit RGB, rounded; the same array if it is that already."""
    if picture.dtype != np.uint8:
        picture = cv2.convertScaleAbs(picture, alpha=255 / top_level(picture.dtype))
    return picture if picture.ndim == 3 else cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB)
