"""Conversion of an embedded ICC profile's colours to sRGB, by littleCMS (Pillow's `ImageCms`).

The intent is relative colorimetric with black-point compensation: colours inside sRGB keep their
look, others become the nearest one inside.
"""

import functools
import io
import logging

import numpy as np
from PIL import Image, ImageCms

# Notes of `to_srgb`.
CONVERTED = "colours were converted from an embedded profile to sRGB"
UNUSABLE = "the embedded colour profile is unusable; colours were taken as sRGB"

_log = logging.getLogger(__name__)

_CACHED = 32  # Profiles; a folder rarely has more than a handful.
_MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}
# Levels of 255. A profile that moves no colour by more is taken as sRGB.
_SAME = 2


def to_srgb(image: Image.Image, profile: bytes) -> tuple[Image.Image, str | None]:
    """Converts a picture from the colours of its profile to sRGB.

    A profile that is damaged or has other channels than the picture is logged once, and the picture
    is taken as sRGB. An RGB profile of gray pixels is applied to three equal channels.

    Args:
        image: mode 'L', 'RGB' or 'CMYK'.
        profile: the ICC profile.

    Returns:
        The picture in mode 'RGB', and `CONVERTED`, `UNUSABLE`, or None for a profile of sRGB.
    """
    transform, note = _conversion(profile, image.mode)
    if transform is None:
        return image.convert("RGB"), note
    return ImageCms.applyTransform(image.convert(transform.input_mode), transform), note


def changes_colours(profile: bytes) -> bool:
    """Returns whether an RGB picture with this profile differs from the same pixels in sRGB."""
    return _conversion(profile, "RGB")[0] is not None


@functools.lru_cache(_CACHED)
def _conversion(profile: bytes, mode: str) -> tuple[ImageCms.ImageCmsTransform | None, str | None]:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        expected = _MODES.get(space)
        if expected != mode and (expected, mode) != ("RGB", "L"):
            raise ValueError(f"its colours are {space}, the pixels {mode}")
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            expected,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            # The coarser tables of the default are a level off in the shadows of gray pictures.
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.HIGHRESPRECALC,
        )
        same = expected != "CMYK" and _is_srgb(transform, expected)
    except Exception as error:  # Damaged profiles raise almost any class.
        _log.warning(
            "a colour profile of %d bytes cannot be used (%s); pictures with it count as sRGB",
            len(profile),
            error,
        )
        return None, UNUSABLE
    return (None, None) if same else (transform, CONVERTED)


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    samples = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(16, -1, 3)
    if mode == "L":
        samples = np.arange(256, dtype=np.uint8)[None]
    colours = np.asarray(ImageCms.applyTransform(Image.fromarray(samples), transform), np.int16)
    expected = samples[..., None] if mode == "L" else samples
    return bool(np.abs(colours - expected).max() <= _SAME)
