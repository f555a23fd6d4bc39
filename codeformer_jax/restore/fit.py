"""Pictures of any size fitted into the network's square and back, on the host.

Pixels are uint8 0..255 or float32 0..1. Enlarging is bilinear, like that of degraded training
images; shrinking is antialiased.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from codeformer_jax.restore.restore_options import RestoreError

Pixels = UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"]

# Largest mean variance of the channels' differences, in levels of 255 squared, of a black-and-white
# picture: lossy files and scans do not keep the channels equal.
GRAY_VARIANCE = 10.0
_CODING = 2
NOT_SQUARE = "it was not square and was extended by its edges (aligned faces are square)"
NOT_PAINTED = "no pixel is white, so nothing was filled in and the picture came back as it was"

# ITU-R BT.601, as in JPEG and Pillow's conversion to 'L'.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A picture in the network's square.

    Attributes:
        pixels: the square; the picture's edges extend to its borders.
        top, left, height, width: position of the picture in the square.
        tint: levels of 255 by which each channel of a gray result exceeds its brightness; None
            leaves the result's colours.
        known: mask of the pixels that the result takes from the picture; None takes none.
        notes: remarks on what reading and fitting changed.
        sharpness: how sharp the face is in its photograph, see `faces.sharpness`; None if it was
            not measured.
    """

    pixels: Pixels
    top: int
    left: int
    height: int
    width: int
    tint: tuple[int, int, int] | None = None
    known: Bool[np.ndarray, "h w"] | None = None
    notes: tuple[str, ...] = ()
    sharpness: float | None = None

    @property
    def gray(self) -> bool:
        """Whether the result has no colour at all."""
        return self.tint == (0, 0, 0) and self.known is None


def as_image(image: object, name: str = "image") -> np.ndarray:
    """Checks an image and returns it as a NumPy array.

    Args:
        image: uint8 0..255 or floats 0..1, [h, w] or [h, w, 3].
        name: for messages.

    Returns:
        The array.

    Raises:
        RestoreError: if it has another dtype, shape or range.
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


def fit(
    image: np.ndarray, size: int, *, keep_gray: bool = True, keep_known: bool = False
) -> Fitted:
    """Resizes a picture to [size, size, 3].

    The longer side becomes `size`. A picture that is not square keeps its proportions, and its
    edges extend to the square, equally on both sides.

    Args:
        image: uint8 0..255 or floats 0..1, [h, w] or [h, w, 3].
        size: side of the network's images.
        keep_gray: give a black-and-white picture (see `tint_of`) a black-and-white result.
        keep_known: treat pure white pixels as painted and take all others from the picture. After
            resizing, a pixel to which a painted one contributes counts as painted.

    Returns:
        The fitted picture.
    """
    pixels = np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image
    if pixels.dtype != np.uint8:
        pixels = pixels.astype(np.float32)
    painted = _is_white(pixels) if keep_known else None
    height, width = pixels.shape[:2]
    scale = size / max(height, width)
    height, width = (max(1, round(side * scale)) for side in (height, width))
    pixels = _resize(pixels, height, width)
    top, left = (size - height) // 2, (size - width) // 2
    borders = ((top, size - height - top), (left, size - width - left))
    known, notes = None, () if height == width else (NOT_SQUARE,)
    if painted is not None:
        known = np.pad(~_resize_mask(painted, height, width), borders, mode="edge")
        notes += () if painted.any() else (NOT_PAINTED,)
    return Fitted(
        np.pad(pixels, (*borders, (0, 0)), mode="edge"),
        top=top,
        left=left,
        height=height,
        width=width,
        tint=tint_of(pixels) if keep_gray else None,
        known=known,
        notes=notes,
    )


def tint_of(pixels: Pixels) -> tuple[int, int, int] | None:
    """Returns the tint of a black-and-white picture: its channels minus its brightness.

    A picture is black and white if the variances of R - G, G - B and B - R over all pixels are at
    most `GRAY_VARIANCE` on average: the published measure. A uniform cast is a tint, not a colour.
    Up to two levels, which lossy coding leaves behind, count as no tint.

    Returns:
        Whole levels of 255 for R, G and B; None for a picture in colour.
    """
    levels = pixels.astype(np.float32) * (1 if pixels.dtype == np.uint8 else 255)
    differences = levels - np.roll(levels, 1, axis=-1)
    if differences.var(axis=(0, 1), dtype=np.float64).mean() > GRAY_VARIANCE:
        return None
    means = levels.mean(axis=(0, 1), dtype=np.float64)
    tint = np.round(means - means @ _LUMA).astype(int)
    red, green, blue = tint.tolist() if np.abs(tint).max() > _CODING else (0, 0, 0)
    return red, green, blue


def unfit(restored: np.ndarray, fitted: Fitted) -> np.ndarray:
    """Cuts the borders off a restored square; applies the tint and the known pixels.

    Args:
        restored: the network's result, [size, size, 3].
        fitted: the picture that it was made from.

    Returns:
        The result [height, width, 3] in the same dtype.
    """
    rows = slice(fitted.top, fitted.top + fitted.height)
    columns = slice(fitted.left, fitted.left + fitted.width)
    pixels = restored[rows, columns]
    if fitted.tint is not None:
        pixels = _in_gray(pixels, fitted.tint)
    if fitted.known is not None:
        own = as_dtype(fitted.pixels[rows, columns], pixels.dtype)
        pixels = np.where(fitted.known[rows, columns, None], own, pixels)
    return pixels


def as_dtype(pixels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Converts pixels between uint8 0..255 and floats 0..1."""
    if pixels.dtype == dtype:
        return pixels
    if dtype == np.uint8:
        return np.round(pixels * 255).astype(np.uint8)
    if pixels.dtype == np.uint8:
        return (pixels / np.float32(255)).astype(dtype)
    return pixels.astype(dtype)


def _in_gray(pixels: Pixels, tint: tuple[int, int, int]) -> Pixels:
    luma = (pixels.astype(np.float32) @ _LUMA)[..., None]
    if pixels.dtype == np.uint8:
        tinted = np.round(luma) + np.array(tint, np.float32)
        return tinted.clip(0, 255).astype(np.uint8)
    return (luma + np.array(tint, np.float32) / 255).clip(0, 1).astype(pixels.dtype)


def _is_white(pixels: Pixels) -> Bool[np.ndarray, "h w"]:
    return np.all(pixels == (255 if pixels.dtype == np.uint8 else 1), axis=-1)


def _resize_mask(mask: Bool[np.ndarray, "h w"], height: int, width: int) -> np.ndarray:
    """Returns where pixels of the mask contribute to the picture that `_resize` makes."""
    if mask.shape == (height, width):
        return mask
    shares = Image.fromarray(mask.astype(np.float32))
    shares = np.asarray(shares.resize((width, height), _method(mask.shape, height, width)))
    # Below half a level of 255; Lanczos also has negative weights.
    return np.abs(shares) > 1 / 512


def _method(shape: tuple[int, ...], height: int, width: int) -> Image.Resampling:
    shrinks = height < shape[0] or width < shape[1]
    return Image.Resampling.LANCZOS if shrinks else Image.Resampling.BILINEAR


def _resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    if pixels.shape[:2] == (height, width):
        return pixels
    method = _method(pixels.shape, height, width)
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize((width, height), method))
    # Pillow resizes floats one channel at a time.
    channels = [
        np.asarray(Image.fromarray(np.ascontiguousarray(channel)).resize((width, height), method))
        for channel in np.moveaxis(pixels, -1, 0)
    ]
    # Lanczos overshoots at edges; 8-bit pictures are clipped by Pillow.
    return np.clip(np.stack(channels, axis=-1), 0, 1)
