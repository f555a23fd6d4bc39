"""Readers and writers of image files as 8-bit sRGB arrays [h, w, 3], 0..255, upright, no alpha.

The content decides the format of a file that is read, not its suffix. A file that cannot be read
raises `UnreadableImage`, which names the file and the reason.
"""

import contextlib
import dataclasses
import functools
import io
import os
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from codeformer_jax.data import profiles
from codeformer_jax.system import storage
from codeformer_jax.system.atomic import atomic_path

# Pillow's readers and the suffixes of their files. Readers that start or need another program (EPS,
# WMF, GRIB, HDF5) are left out, and so are formats that hold no pictures.
_READERS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "PSD": (".psd",),
    "QOI": (".qoi",),
    "ICO": (".ico",),
    "PCX": (".pcx",),
    "SGI": (".sgi",),
    "DDS": (".dds",),
    "TGA": (".tga",),  # Last, since these files have no signature.
}
READ_SUFFIXES = tuple(suffix for suffixes in _READERS.values() for suffix in suffixes)
# Cameras' raw files are TIFF files; Pillow would read their preview.
_RAW_SUFFIXES = (
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw"),
    *(".orf", ".pef", ".raf", ".rw2", ".srw"),
)
# Pictures that cannot be read here; reading a folder reports them.
UNREAD_SUFFIXES = (".heic", ".heif", ".hif", ".jxl", ".svg", ".eps", *_RAW_SUFFIXES)
_PICTURE_SUFFIXES = READ_SUFFIXES + UNREAD_SUFFIXES

# Notes on what reading has changed or left out; see `Picture`.
TRANSPARENT = "transparency was laid on white"
FIRST_FRAME = "the first of several frames was taken"
METADATA = "EXIF data were not kept"

_SAVE_FORMATS = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 95}),
    ".bmp": ("BMP", {}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
}
SUFFIXES = tuple(_SAVE_FORMATS)  # Of files that can be written.

# Metadata in which Pillow finds an orientation or a transparent colour.
_CHANGING = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp", "transparency"}
_ORIENTATION = 0x0112
# Bytes at the start of a file that hold the header of most pictures.
_HEADER = 2**16
# Where several images in a file are frames or pages, and not previews or layers.
_WITH_FRAMES = ("PNG", "WEBP", "TIFF", "GIF", "AVIF")


class UnreadableImage(ValueError):
    """A file that is not a usable image.

    Attributes:
        path: the file.
        reason: the fault.
    """

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(os.fspath(path), reason)
        self.path = os.fspath(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read image '{self.path}': {self.reason}"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        pixels: 8-bit sRGB.
        notes: what reading has changed or left out: `TRANSPARENT`, `FIRST_FRAME`, `METADATA`,
            `profiles.CONVERTED`, `profiles.UNUSABLE`.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    notes: tuple[str, ...] = ()


def read_image(path: str | os.PathLike, max_megapixels: float | None = None) -> Picture:
    """Reads an image file (its first frame) as upright 8-bit sRGB, whatever its suffix.

    EXIF orientation is applied, an embedded colour profile is converted to sRGB, transparency is
    composited on white (as most viewers show it), 16-bit samples are scaled to 8 bits, CMYK and
    palettes are converted.

    Args:
        path: the file, or the address of one in a bucket.
        max_megapixels: bound against decompression bombs; None is `PIL.Image.MAX_IMAGE_PIXELS`. A
            larger one raises that constant for this process, since Pillow knows no other bound.

    Raises:
        UnreadableImage: missing, corrupt, truncated, not an image, or too large.
        OSError: if a bucket does not answer.
    """
    with opened(path, max_megapixels=max_megapixels) as image:
        notes = [METADATA] if _has_exif(image) else []
        notes += [FIRST_FRAME] if has_frames(image) else []
        check_samples(image)
        image.load()
        upright, converted = _rgb(_upright(image))
        return Picture(pixels=np.array(upright), notes=(*notes, *converted))


def decode_image(data: bytes, origin: str) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image in memory, as `read_image` does; the result may be read-only.

    An upright 8-bit RGB image is only decoded.

    Args:
        data: the contents of an image file.
        origin: its name, for errors.

    Raises:
        UnreadableImage: as `read_image`.
    """
    with opened(origin, io.BytesIO(data)) as image:
        check_samples(image)
        image.load()
        profile = image.info.get("icc_profile")
        plain = image.mode == "RGB" and not _CHANGING & image.info.keys()
        if plain and not (profile and profiles.changes_colours(profile)):
            return np.asarray(image)
        return np.asarray(_rgb(_upright(image))[0])


def image_size(path: str | os.PathLike, max_megapixels: float | None = None) -> tuple[int, int]:
    """Returns (height, width) from the header alone, before EXIF orientation.

    It does not notice a truncated file.

    Args:
        path: the file, or the address of one in a bucket.
        max_megapixels: as in `read_image`.

    Raises:
        UnreadableImage: as `read_image`.
    """
    if storage.is_remote(path):
        # Some formats have their header elsewhere: then the whole file is read.
        head = _downloaded(path, stop=_HEADER)
        with contextlib.suppress(UnreadableImage), opened(path, head, max_megapixels) as image:
            return image.height, image.width
    with opened(path, max_megapixels=max_megapixels) as image:
        return image.height, image.width


def has_picture_suffix(path: str | os.PathLike) -> bool:
    """Returns whether a file has the suffix of a picture, also of one that cannot be read here."""
    return os.fspath(path).lower().endswith(_PICTURE_SUFFIXES)


def is_picture(path: str | os.PathLike) -> bool:
    """Returns whether a file is a picture, by its suffix or its content.

    In a bucket the suffix decides, since opening each file would cost a request.
    """
    if has_picture_suffix(path) or storage.is_remote(path):
        return has_picture_suffix(path)
    try:
        # Opening a pipe would wait for its writer.
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file, _identified(file):
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # Pillow's readers raise almost any class on files of other programs.
        return False


def resize_image(
    pixels: UInt8[np.ndarray, "h w 3"], size: int | tuple[int, int]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Resizes a picture with an antialiased Lanczos filter.

    Args:
        pixels: the picture; with the right size already it is returned as it is.
        size: one integer, at least 1, takes the largest centred square to [size, size, 3];
            (height, width) takes the whole picture, whatever its aspect ratio.
    """
    height, width = pixels.shape[:2]
    if isinstance(size, int):
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        # Not by Pillow's `box`, whose filter reaches beyond it.
        pixels = pixels[top : top + side, left : left + side]
        size = (size, size)
    if pixels.shape[:2] == size:
        return np.ascontiguousarray(pixels)  # A view would keep what was cut off.
    resized = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.LANCZOS)
    return np.array(resized)


def write_image(
    path: str | os.PathLike, pixels: UInt8[np.ndarray, "h w 3"], gray: bool = False
) -> None:
    """Writes a picture in the format of the path's suffix, atomically.

    Missing folders are made. JPEG and WebP use quality 95.

    Args:
        path: file to write or replace.
        pixels: 8-bit RGB.
        gray: store luma only.

    Raises:
        ValueError: a suffix that is none of `SUFFIXES`.
        TypeError: pixels that are not uint8 [h, w, 3].
    """
    path = storage.to_path(path)
    if path.suffix.lower() not in _SAVE_FORMATS:
        raise ValueError(
            f"cannot write '{path}': the suffix '{path.suffix}' is none of {', '.join(SUFFIXES)}"
        )
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3:
        raise TypeError(
            f"cannot write '{path}': expected uint8 [h, w, 3] with 0..255, "
            f"got {pixels.dtype} {list(pixels.shape)}"
        )
    file_format, options = _SAVE_FORMATS[path.suffix.lower()]
    image = Image.fromarray(pixels)
    encoded = io.BytesIO()
    (image.convert("L") if gray else image).save(encoded, file_format, **options)
    with atomic_path(path, sync=False) as temporary:
        temporary.write_bytes(encoded.getbuffer())


@contextlib.contextmanager
def opened(
    path: str | os.PathLike,
    data: io.BufferedIOBase | None = None,
    max_megapixels: float | None = None,
) -> Iterator[Image.Image]:
    """Opens an image without decoding it; checks its format and its number of pixels.

    Args:
        path: the file, or the address of one in a bucket.
        data: contents to read instead; `path` is their name, for errors.
        max_megapixels: as in `read_image`.

    Yields:
        Pillow's image.

    Raises:
        UnreadableImage: for any exception, including those raised inside the block.
        OSError: if a bucket does not answer, which says nothing about the file.
    """
    limit = _bound(max_megapixels)
    if data is None and storage.is_remote(path):
        data = _downloaded(path)
    try:
        with open(path, "rb") if data is None else data as file, _identified(file) as image:
            # Up to twice its limit Pillow only warns.
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError
            if image.format == "TIFF" and os.fspath(path).lower().endswith(_RAW_SUFFIXES):
                raise UnidentifiedImageError
            yield image
    except Exception as error:  # Pillow's decoders raise almost any class on broken files.
        raise UnreadableImage(path, _reason(error, path, limit)) from error


def has_frames(image: Image.Image) -> bool:
    """Returns whether an image is the first of several frames or pages."""
    return image.format in _WITH_FRAMES and getattr(image, "is_animated", False)


def check_samples(image: Image.Image) -> None:
    """Raises ValueError for 32-bit samples."""
    # Pillow scales a PPM's samples above 8 bits to 16, and calls them 'I'.
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise ValueError(
            "32-bit samples have no defined white level; save it with 8 or 16 bits per sample"
        )


def _bound(max_megapixels: float | None) -> int | None:
    """Returns the largest number of pixels that is read, and lets Pillow read as many."""
    if max_megapixels is None:
        return Image.MAX_IMAGE_PIXELS
    limit = int(max_megapixels * 1e6)
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(limit, Image.MAX_IMAGE_PIXELS)
    return limit


def _downloaded(path: str | os.PathLike, stop: int | None = None) -> io.BytesIO:
    """Returns the content of a file in a bucket, or its first `stop` bytes."""
    try:
        return io.BytesIO(storage.read_bytes(path, stop))
    except FileNotFoundError as error:
        raise UnreadableImage(path, "no such file or directory") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """Returns the readers that this build of Pillow has."""
    Image.init()
    return tuple(name for name in _READERS if name in Image.OPEN)


def _identified(file: io.BufferedIOBase) -> Image.Image:
    try:
        return Image.open(file, formats=_formats())
    except UnidentifiedImageError as error:
        # Not by its name, which may belong to another file by now.
        if file.seek(0, os.SEEK_END) == 0:
            raise ValueError("the file is empty") from error
        raise


def _reason(error: Exception, path: str | os.PathLike, limit: int | None) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return (
            f"more than {limit} pixels (a guard against decompression bombs); max_megapixels of "
            "restore, prepare and training data allows more"
        )
    if isinstance(error, UnidentifiedImageError):
        suffix = os.path.splitext(path)[1].lower()
        if suffix in UNREAD_SUFFIXES:
            return f"{suffix} files cannot be read; export the picture as PNG or JPEG"
        return "not an image of a known format, or its header is damaged"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


def _has_exif(image: Image.Image) -> bool:
    """Returns whether there are EXIF data other than the orientation, which is applied."""
    if "exif" not in image.info:
        return False
    try:
        return bool(set(image.getexif()) - {_ORIENTATION})
    except Exception:  # Damaged data.
        return False


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # The pixels may be good where the metadata is damaged.
        return image


def _rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Returns the picture in 8-bit sRGB on white, and notes on what was changed."""
    notes, profile = [], image.info.get("icc_profile")
    if image.mode.startswith("I"):
        # Pillow's own conversion clips at 255.
        scaled = np.round(np.asarray(image).astype(np.float32) / 257).astype(np.uint8)
        image = Image.fromarray(scaled)
    gray = image.mode in ("1", "L", "LA", "La")
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        if alpha.getextrema()[0] < 255:
            notes.append(TRANSPARENT)
        image = image.convert("RGB")
    if profile:
        image = image.convert("L" if gray else "CMYK" if image.mode == "CMYK" else "RGB")
        image, note = profiles.to_srgb(image, profile)
        notes += [note] if note else []
    image = image.convert("RGB")
    if alpha is not None:
        image.putalpha(alpha)
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image).convert("RGB")
    return image, notes
