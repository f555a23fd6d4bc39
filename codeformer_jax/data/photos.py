"""Readers and writers of whole photographs: pixels, alpha, colour profile and EXIF as they are.

Nothing is converted that a result can keep: gray stays gray, 16 bits stay 16 bits, and colours stay
those of the embedded profile. `images` reads pictures for networks instead: 8-bit sRGB.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import BinaryIO

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image

from codeformer_jax.data import exif as exif_data
from codeformer_jax.data import profiles
from codeformer_jax.data.images import (
    FIRST_FRAME,
    TRANSPARENT,
    check_samples,
    has_frames,
    opened,
)
from codeformer_jax.data.photo_png import (
    Alpha,
    Samples,
    bands,
    write_png,
)
from codeformer_jax.system import storage
from codeformer_jax.system.atomic import atomic_path

# Notes on what reading or writing has changed or left out; see also those of `images`.
CMYK = "CMYK colours were converted to sRGB"
EIGHT_BITS = "16 bits per sample became 8"
DAMAGED_EXIF = "damaged EXIF data were not kept"
LONG_EXIF = "EXIF data of more than 64 KB were not kept"
EXTRAS = "previews, depth or gain maps beside the picture were not kept"
TEXTS = "XMP data and comments were not kept"

_ORIENTATION = 0x0112
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_EXTRA = 258, 262, 338
_TIFF_TEXTS = (
    *(0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x013C),
    *(0x8298, exif_data.EXIF, exif_data.GPS),
)
_RAW_EXIF = "Raw profile type exif"  # ImageMagick's, a text in hexadecimal digits.
_JPEG_EXIF = 65533 - len(exif_data.PREFIX)  # Room of a segment.
_MAX_SIDES = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}
# Turns stored pixels upright, by EXIF's orientation.
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored[::-1].swapaxes(0, 1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),
}


@dataclasses.dataclass(frozen=True, eq=False)
class PhotoFile:
    """A photograph with everything that its file says about it.

    Attributes:
        pixels: uint8 or uint16, gray [h, w] or RGB [h, w, 3], upright, in the profile's colours.
        alpha: opacity [h, w] in the same dtype, not premultiplied; None without transparency.
        icc_profile: the embedded colour profile.
        exif: EXIF data without orientation, thumbnail, and JPEG's prefix `Exif`.
        notes: what reading has changed or left out: `images.FIRST_FRAME`, and constants above.
    """

    pixels: Samples
    alpha: Alpha | None = None
    icc_profile: bytes | None = None
    exif: bytes | None = None
    notes: tuple[str, ...] = ()


def read_photo(path: str | os.PathLike, max_megapixels: float | None = None) -> PhotoFile:
    """Reads a photograph (the first frame of an animation), whatever the suffix.

    EXIF orientation is applied, palettes are expanded, and CMYK is converted to sRGB.

    Args:
        path: the file, or the address of one in a bucket.
        max_megapixels: bound against decompression bombs; see `images.read_image`.

    Returns:
        The photograph.

    Raises:
        UnreadableImage: missing, corrupt, truncated, not an image, too large, or samples of 32
            bits.
    """
    with opened(path, max_megapixels=max_megapixels) as image:
        check_samples(image)
        notes = [FIRST_FRAME] if has_frames(image) else []
        notes += [EXTRAS] if image.format == "MPO" else []
        deep, file = _has_deep_colour(image), image.fp
        gray = "LA" in str(image.tile[:1])  # Pillow opens 16-bit gray with alpha as RGBA.
        keeps_depth = image.mode in ("RGB", "RGBA") and image.format in ("PNG", "TIFF")
        image.load()  # Also finds damage, and metadata behind the pixels.
        orientation = _orientation(image)
        exif, damaged = _exif(image)
        notes += [DAMAGED_EXIF] if damaged else []
        notes += [TEXTS] if _has_texts(image) else []
        profile = image.info.get("icc_profile") or None
        if deep and keeps_depth:
            pixels, alpha = _decode_deep(file, image, gray)
        else:
            notes += [EIGHT_BITS] if deep else []
            if image.mode == "CMYK":
                notes.append(CMYK)
            pixels, alpha = _decode(image, profile)
            profile = None if image.mode == "CMYK" else profile
    del image  # Turned arrays are copies.
    turn = _UPRIGHT[orientation]
    pixels = np.ascontiguousarray(turn(pixels))
    alpha = None if alpha is None else np.ascontiguousarray(turn(alpha))
    return PhotoFile(pixels, alpha, profile, exif, tuple(notes))


def write_photo(path: str | os.PathLike, photo: PhotoFile, comment: str) -> tuple[str, ...]:
    """Writes a photograph in the format of the path's suffix, atomically.

    Profile and EXIF data are stored as well. Missing folders are made. JPEG and WebP use quality
    95, JPEG without chroma subsampling.

    Args:
        path: file to write or replace.
        photo: the photograph.
        comment: text about the picture; empty for none. PNG stores it as the text `Comment`. JPEG
            and WebP append it to EXIF's ImageDescription. JPEG also stores it as a comment.

    Returns:
        Notes on what the format cannot keep.

    Raises:
        ValueError: a suffix that is none of `PHOTO_SUFFIXES`, or a picture too large for the
            format.
        TypeError: pixels or alpha of another dtype or shape than in `PhotoFile`.
    """
    path = storage.to_path(path)
    if path.suffix.lower() not in _WRITERS:
        raise ValueError(
            f"cannot write '{path}': the suffix '{path.suffix}' is none of "
            f"{', '.join(PHOTO_SUFFIXES)}"
        )
    _check(path, photo)
    with atomic_path(path, sync=False) as temporary, open(temporary, "wb") as file:
        return tuple(_WRITERS[path.suffix.lower()](file, photo, comment))


def _has_deep_colour(image: Image.Image) -> bool:
    """Returns whether there are samples of more than 8 bits that Pillow cuts to 8."""
    if image.mode.startswith("I"):
        return False
    if image.format == "TIFF":
        return max(image.tag_v2.get(_TIFF_BITS, (1,))) > 8
    codec, _, _, arguments = image.tile[0] if image.tile else ("", None, 0, "")
    if image.format == "PPM":
        return not isinstance(arguments, str) and arguments[-1] > 255
    return codec == "SGI16" or (isinstance(arguments, str) and ";16" in arguments)


def _orientation(image: Image.Image) -> int:
    """Returns the orientation of the decoded pixels; Pillow and OpenCV turn a TIFF themselves."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # The pixels may be good where the metadata are damaged.
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _exif(image: Image.Image) -> tuple[bytes | None, bool]:
    """Returns EXIF data as in `PhotoFile`, and whether there are damaged ones."""
    try:
        if image.format == "TIFF":
            data = _exif_of_tiff(image.getexif())
        elif _RAW_EXIF in image.info and "exif" not in image.info:
            data = bytes.fromhex("".join(image.info[_RAW_EXIF].split("\n")[3:]))
        else:
            data = image.info.get("exif", b"")
        data = data.removeprefix(exif_data.PREFIX)
        return (exif_data.strip(data) or None if data else None), False
    except Exception:  # Pillow's readers raise almost any class.
        return None, True


def _exif_of_tiff(tags: Image.Exif) -> bytes:
    """Returns the tags of a TIFF file that describe the picture, not how its pixels are stored."""
    kept = Image.Exif()
    for tag in _TIFF_TEXTS:
        if tag in tags:
            nested = tag in (exif_data.EXIF, exif_data.GPS)
            kept[tag] = dict(tags.get_ifd(tag)) if nested else tags[tag]
    return kept.tobytes() if len(kept) else b""


def _has_texts(image: Image.Image) -> bool:
    texts = set(getattr(image, "text", ())) - {_RAW_EXIF}
    return bool(texts or image.info.keys() & {"xmp", "XML:com.adobe.xmp", "comment"})


def _decode(image: Image.Image, profile: bytes | None) -> tuple[Samples, Alpha | None]:
    """Returns the stored pixels and alpha of a loaded image."""
    transparent = image.info.get("transparency")
    if image.mode.startswith("I"):
        samples = np.asarray(image).astype(np.uint16)
        alpha = None if transparent is None else np.where(samples == transparent, 0, 65535)
        if image.format == "TIFF" and image.tag_v2.get(_TIFF_PHOTOMETRIC) == 0:
            np.subtract(65535, samples, out=samples)  # 0 is white; Pillow leaves 16 bits so.
        return samples, None if alpha is None else alpha.astype(np.uint16)
    gray, clear = image.mode in ("1", "L", "LA", "La"), image.has_transparency_data
    mode = {(True, False): "L", (True, True): "LA", (False, False): "RGB"}.get((gray, clear))
    height, width = image.height, image.width
    pixels = np.empty((height, width) if gray else (height, width, 3), np.uint8)
    alpha = np.empty((height, width), np.uint8) if clear else None
    # In bands, since conversions and arrays of Pillow's images are copies.
    for rows in bands(height, 4 * width):
        band = image.crop((0, rows.start, width, rows.stop))
        if band.mode == "CMYK" and profile:
            band, _ = profiles.to_srgb(band, profile)
        samples = np.asarray(band.convert(mode or "RGBA"))
        if clear:
            alpha[rows] = samples[..., -1]
            samples = samples[..., 0] if gray else samples[..., :3]
        pixels[rows] = samples
    return pixels, alpha


def _decode_deep(file: BinaryIO, image: Image.Image, gray: bool) -> tuple[Samples, Alpha | None]:
    """Returns the stored 16-bit pixels and alpha of an image that Pillow has loaded as 8-bit."""
    file.seek(0)
    data = file.read()
    image.close()  # Frees its pixels.
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    expected = np.uint16, 3, (image.height, image.width)
    if decoded is None or (decoded.dtype, decoded.ndim, decoded.shape[:2]) != expected:
        raise ValueError("its 16-bit samples cannot be decoded; save it as a 16-bit PNG")
    if decoded.shape[2] == 3:
        return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=decoded), None
    alpha = np.ascontiguousarray(decoded[..., 3])
    pixels = cv2.cvtColor(decoded, cv2.COLOR_BGRA2RGB)
    if image.format == "PNG":
        return (pixels[..., 0].copy() if gray else pixels), alpha  # OpenCV expands gray.
    if image.mode == "RGB":  # The fourth channel is not opacity.
        return pixels, None
    if image.tag_v2.get(_TIFF_EXTRA) == (1,):
        _unpremultiply(pixels, alpha)
    return pixels, alpha


def _unpremultiply(pixels: UInt16[np.ndarray, "h w 3"], alpha: UInt16[np.ndarray, "h w"]) -> None:
    """Divides colours by alpha, in place."""
    for rows in bands(len(pixels), 4 * pixels[:1].nbytes):
        opacity = np.maximum(alpha[rows], 1).astype(np.float32)[..., None] / 65535
        pixels[rows] = np.minimum(np.round(pixels[rows] / opacity), 65535)


def _check(path: storage.Path, photo: PhotoFile) -> None:
    """Raises TypeError or ValueError for a photograph that cannot be written."""
    pixels, alpha = photo.pixels, photo.alpha
    whole = pixels.dtype in (np.uint8, np.uint16)
    if not whole or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise TypeError(
            f"cannot write '{path}': expected uint8 or uint16 [h, w] or [h, w, 3], "
            f"got {pixels.dtype} {list(pixels.shape)}"
        )
    if alpha is not None and (alpha.dtype != pixels.dtype or alpha.shape != pixels.shape[:2]):
        raise TypeError(
            f"cannot write '{path}': expected alpha as {pixels.dtype} {list(pixels.shape[:2])}, "
            f"got {alpha.dtype} {list(alpha.shape)}"
        )
    limit = _MAX_SIDES.get(path.suffix.lower(), pixels.size)
    if max(pixels.shape[:2]) > limit:
        raise ValueError(
            f"cannot write '{path}': the picture has {pixels.shape[1]}x{pixels.shape[0]} px, and "
            f"this format at most {limit} px a side; choose PNG"
        )


def _save_png(file: BinaryIO, photo: PhotoFile, comment: str) -> list[str]:
    write_png(
        file,
        photo.pixels,
        photo.alpha,
        texts={"Comment": comment} if comment else {},
        icc_profile=photo.icc_profile,
        exif=photo.exif,
    )
    return []


def _save_jpeg(file: BinaryIO, photo: PhotoFile, comment: str) -> list[str]:
    pixels, notes = _eight_bits(photo.pixels)
    if photo.alpha is not None:
        pixels = _on_white(pixels, _eight_bits(photo.alpha)[0])
        notes.append(TRANSPARENT)
    exif = _described(photo.exif, comment)
    if exif and len(exif) > _JPEG_EXIF:
        exif = _described(None, comment)
        notes.append(LONG_EXIF)
    Image.fromarray(pixels).save(
        file,
        "JPEG",
        quality=95,
        subsampling=0,
        icc_profile=photo.icc_profile,
        exif=exif_data.PREFIX + exif if exif else b"",
        comment=comment,
    )
    return notes


def _save_webp(file: BinaryIO, photo: PhotoFile, comment: str) -> list[str]:
    pixels, notes = _eight_bits(photo.pixels)
    if photo.alpha is not None:
        colour = [pixels] * 3 if pixels.ndim == 2 else [pixels]
        pixels = np.dstack([*colour, _eight_bits(photo.alpha)[0]])
    Image.fromarray(pixels).save(
        file,
        "WEBP",
        quality=95,
        icc_profile=photo.icc_profile or b"",
        exif=_described(photo.exif, comment) or b"",
    )
    return notes


def _described(exif: bytes | None, comment: str) -> bytes | None:
    return exif_data.describe(exif, comment) if comment else exif


def _eight_bits(
    samples: Samples,
) -> tuple[UInt8[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"], list[str]]:
    """Returns samples as 8 bits, and notes."""
    if samples.dtype == np.uint8:
        return samples, []
    result = np.empty(samples.shape, np.uint8)
    for rows in bands(len(samples), 2 * samples[:1].nbytes):
        result[rows] = (samples[rows].astype(np.uint32) + 128) // 257
    return result, [EIGHT_BITS]


def _on_white(
    pixels: UInt8[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"], alpha: UInt8[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]:
    result = np.empty_like(pixels)
    for rows in bands(len(pixels), 4 * pixels[:1].nbytes):
        opacity = alpha[rows].astype(np.float32) / 255
        opacity = opacity if pixels.ndim == 2 else opacity[..., None]
        result[rows] = np.round(pixels[rows] * opacity + 255 * (1 - opacity))
    return result


_WRITERS = {
    ".png": _save_png,
    ".jpg": _save_jpeg,
    ".jpeg": _save_jpeg,
    ".webp": _save_webp,
}
PHOTO_SUFFIXES = tuple(_WRITERS)
