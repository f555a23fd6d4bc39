"""Image files <-> 8-bit RGB arrays [h, w, 3], range 0..255, upright, without alpha.

Reading accepts what people have in their folders; whatever cannot be read raises one error class
that names the file and the reason. Embedded colour profiles are ignored: pixels are taken as sRGB.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
import secrets
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

_SAVE_FORMATS = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 95}),
    ".bmp": ("BMP", {}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
}

# Metadata in which Pillow finds an orientation or a transparent colour.
_CHANGING = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp", "transparency"}

_REASONS = {
    FileNotFoundError: "no such file",
    IsADirectoryError: "this is a folder",
    PermissionError: "permission denied",
}


class UnreadableImage(ValueError):
    """A file that is no usable image; `path` is the file, `reason` says what is wrong with it."""

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(os.fspath(path), reason)
        self.path = os.fspath(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read image '{self.path}': {self.reason}"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded image: `pixels` as 8-bit RGB, `gray` where the file had no colour in any pixel."""

    pixels: UInt8[np.ndarray, "h w 3"]
    gray: bool


def read_image(path: str | os.PathLike) -> Picture:
    """Reads a PNG, JPEG, WebP, BMP or TIFF file (its first frame) as upright 8-bit RGB.

    EXIF orientation is applied, transparency is composited on white (as most viewers show it),
    16-bit samples are scaled to 8 bits, CMYK and palettes are converted.

    Raises:
      UnreadableImage: missing, corrupt, truncated or not an image, or larger than
        `PIL.Image.MAX_IMAGE_PIXELS` pixels.
    """
    with _opened(path) as image:
        image.load()
        pixels = np.array(_rgb(_upright(image)))
    return Picture(pixels=pixels, gray=_is_gray(pixels))


def decode_image(data: bytes, origin: str) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of an encoded image in memory, as `read_image` gives them; perhaps read-only.

    An upright 8-bit RGB image costs no more than its decoder. `origin` names it in errors.

    Raises:
      UnreadableImage: as `read_image`.
    """
    with _opened(origin, io.BytesIO(data)) as image:
        image.load()
        plain = image.mode == "RGB" and not _CHANGING & image.info.keys()
        return np.asarray(image if plain else _rgb(_upright(image)))


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """(height, width) from the header alone, as stored (before EXIF orientation).

    Cheap; it does not notice a truncated file. Raises UnreadableImage like `read_image`.
    """
    with _opened(path) as image:
        return image.height, image.width


def resize_image(
    pixels: UInt8[np.ndarray, "h w 3"], size: int | tuple[int, int]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Antialiased Lanczos resize; pixels that have that size already are returned themselves.

    `size` as one integer gives [size, size, 3] from the largest centred square; as (height, width)
    it takes the whole picture to exactly that, whatever that does to the aspect ratio.
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
    if min(size) < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    resized = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.LANCZOS)
    return np.array(resized)


def write_image(
    path: str | os.PathLike, pixels: UInt8[np.ndarray, "h w 3"], gray: bool = False
) -> None:
    """Writes 8-bit RGB to `path` atomically, in the format of its suffix; `gray` stores luma only.

    Missing folders are made. JPEG and WebP use quality 95. The picture is encoded first and renamed
    into place last, so a failure leaves neither a partial file nor the previous one damaged.

    Raises:
      ValueError: a suffix that is none of `SUFFIXES`.
      TypeError: pixels that are not uint8 [h, w, 3].
    """
    path = pathlib.Path(path)
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

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_bytes(encoded.getbuffer())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _opened(
    path: str | os.PathLike, data: io.BufferedIOBase | None = None
) -> Iterator[Image.Image]:
    """The file, or `data` under that name, opened by Pillow; any failure is UnreadableImage."""
    try:
        with _file(path) if data is None else data as file, _identified(file) as image:
            limit = Image.MAX_IMAGE_PIXELS
            # Pillow itself only warns up to twice its limit.
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError
            yield image
    except Exception as error:  # Pillow's decoders raise almost any class on broken files.
        raise UnreadableImage(path, _reason(error)) from error


def _file(path: str | os.PathLike) -> io.BufferedIOBase:
    """The file, or the contents of one in a bucket (`gs://`, `s3://`)."""
    if "://" not in os.fspath(path):
        return open(path, "rb")
    from etils import epath  # noqa: PLC0415  Slow to import, and most files are local.

    return io.BytesIO(epath.Path(path).read_bytes())


def _identified(file: io.BufferedIOBase) -> Image.Image:
    try:
        # Only these formats: some other Pillow readers start external programs.
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        # Of the open file: by its name it may be another one by now, or none.
        if file.seek(0, os.SEEK_END) == 0:
            raise ValueError("the file is empty") from error
        raise ValueError(
            "not a PNG, JPEG, WebP, BMP or TIFF image, or its header is damaged"
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {Image.MAX_IMAGE_PIXELS} pixels (PIL.Image.MAX_IMAGE_PIXELS)"
    for kind, reason in _REASONS.items():
        if isinstance(error, kind):
            return reason
    return str(error) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Damaged metadata says nothing against the pixels.
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255.
        scaled = np.round(np.asarray(image).astype(np.float32) / 257).astype(np.uint8)
        return Image.fromarray(scaled).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(
            "32-bit samples have no defined white level; save it with 8 or 16 bits per sample"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _is_gray(pixels: UInt8[np.ndarray, "h w 3"]) -> bool:
    # A few pixels settle it for nearly every colour photograph.
    for view in (pixels[::16, ::16], pixels):
        if not (
            np.array_equal(view[..., 0], view[..., 1])
            and np.array_equal(view[..., 1], view[..., 2])
        ):
            return False
    return True
