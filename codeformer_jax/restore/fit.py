"""Pictures of any size <-> the square of the network, on the host.

Pixels are uint8 0..255 or float32 0..1. Enlarging is bilinear, as the degraded pictures of training
were enlarged; shrinking is antialiased.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from codeformer_jax.restore.errors import RestoreError

Pixels = UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"]

# ITU-R BT.601, as JPEG and Pillow's conversion to 'L' weigh colours.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A picture in the network's square: it fills `height` x `width` pixels from (`top`, `left`).

    `gray` tells that the picture had no colour in any pixel.
    """

    pixels: Pixels
    top: int
    left: int
    height: int
    width: int
    gray: bool

    @property
    def padded(self) -> bool:
        """Whether the picture was not square and got borders."""
        return self.pixels.shape[:2] != (self.height, self.width)


def as_image(image: object, name: str = "image") -> np.ndarray:
    """The image as a NumPy array: uint8 0..255 or floats 0..1, [h, w] or [h, w, 3].

    Raises:
        RestoreError: another dtype, shape or range, naming what was given.
    """
    pixels = np.asarray(image)
    given = f"{name} is {pixels.dtype} {list(pixels.shape)}"
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] != 3):
        raise RestoreError(
            f"{given}; expected gray [h, w] or RGB [h, w, 3] (drop an alpha channel; give images "
            "of different sizes as a list)"
        )
    if pixels.size == 0:
        raise RestoreError(f"{given}: it has no pixels")
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise RestoreError(f"{given}; expected uint8 with 0..255 or floats with 0..1")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):
        raise RestoreError(
            f"{given} with values from {low:.4g} to {high:.4g}; floats must lie in [0, 1] "
            "(divide 0..255 by 255; turn -1..1 into (x + 1) / 2)"
        )
    return pixels


def fit(image: np.ndarray, size: int) -> Fitted:
    """Resizes a picture [h, w] or [h, w, 3] to [size, size, 3].

    The longer side becomes `size`; a picture that is not square keeps its proportions and is
    continued to the square by its edges, equally on both sides.
    """
    gray = image.ndim == 2
    pixels = np.repeat(image[..., None], 3, axis=-1) if gray else image
    gray = gray or bool(np.all(pixels == pixels[..., :1]))
    if pixels.dtype != np.uint8:
        pixels = pixels.astype(np.float32)
    height, width = pixels.shape[:2]
    scale = size / max(height, width)
    height, width = (max(1, round(side * scale)) for side in (height, width))
    pixels = _resize(pixels, height, width)
    top, left = (size - height) // 2, (size - width) // 2
    borders = ((top, size - height - top), (left, size - width - left), (0, 0))
    return Fitted(np.pad(pixels, borders, mode="edge"), top, left, height, width, gray)


def unfit(restored: np.ndarray, fitted: Fitted) -> np.ndarray:
    """Cuts the borders off a restored square and makes it gray [h, w, 3] where the picture was."""
    rows = slice(fitted.top, fitted.top + fitted.height)
    columns = slice(fitted.left, fitted.left + fitted.width)
    pixels = restored[rows, columns]
    if not fitted.gray:
        return pixels
    luma = pixels.astype(np.float32) @ _LUMA
    if pixels.dtype == np.uint8:
        luma = np.round(luma)
    return np.repeat(luma[..., None], 3, axis=-1).astype(pixels.dtype)


def as_dtype(pixels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Pixels (uint8 0..255 or floats 0..1) in another of these dtypes."""
    if pixels.dtype == dtype:
        return pixels
    if dtype == np.uint8:
        return np.round(pixels * 255).astype(np.uint8)
    if pixels.dtype == np.uint8:
        return (pixels / np.float32(255)).astype(dtype)
    return pixels.astype(dtype)


def _resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = height < pixels.shape[0] or width < pixels.shape[1]
    method = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BILINEAR
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize((width, height), method))
    # Pillow resizes floats one channel at a time.
    channels = [
        np.asarray(Image.fromarray(np.ascontiguousarray(channel)).resize((width, height), method))
        for channel in np.moveaxis(pixels, -1, 0)
    ]
    # Lanczos overshoots at edges; 8-bit pictures are clipped by Pillow.
    return np.clip(np.stack(channels, axis=-1), 0, 1)
