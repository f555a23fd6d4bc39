"""One file: the picture that goes into the dataset, and its encoded bytes."""

import errno
import io
import os
import struct
import zlib

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from codeformer_jax.data.images import UnreadableImage, read_image, resize_image

FORMATS = ("png", "webp", "jpeg")

# Failures of the disk, the network or this machine, which may be over tomorrow. Anything else is
# the file's own: what a damaged header says can make the system answer almost anything.
_PASSING = {
    *(errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.EBUSY, errno.EAGAIN, errno.ENOMEM),
    *(errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EPIPE, errno.ENOTCONN),
    *(errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH),
}


class TooSmall(ValueError):
    """A picture whose shorter side is below the smallest accepted one."""


def examine(
    path: str | os.PathLike, size: int, min_size: int, max_megapixels: float | None = None
) -> UInt8[np.ndarray, "s s 3"]:
    """Returns the centred square of a file's upright RGB picture, antialiased to [size, size, 3].

    Args:
        path: the file.
        size: side of the result in pixels.
        min_size: smallest accepted shorter side in pixels.
        max_megapixels: see `read_image`.

    Raises:
        UnreadableImage: not an image, damaged, unreadable, or a decompression bomb.
        TooSmall: the shorter side is below `min_size`.
        OSError: the disk, the network or this machine (its memory) failed, not the file; it names
            the file.
    """
    try:
        pixels = read_image(path, max_megapixels).pixels
        height, width = pixels.shape[:2]
        if min(height, width) < min_size:
            raise TooSmall(
                f"{width}x{height} pixels (w x h), its shorter side must be at least {min_size}"
            )
        return resize_image(pixels, size)
    except (UnreadableImage, MemoryError) as error:
        cause = error.__cause__ if isinstance(error, UnreadableImage) else error
        if isinstance(cause, MemoryError):
            # Not left out: the same files would give another dataset on a larger machine.
            reason = "no memory to read it; use fewer --workers, or move it away and --restart"
            raise OSError(errno.ENOMEM, reason, os.fspath(path)) from error
        if isinstance(cause, OSError) and cause.errno in _PASSING:
            raise OSError(cause.errno, cause.strerror, os.fspath(path)) from error
        raise


def encode(pixels: UInt8[np.ndarray, "h w 3"], file_format: str) -> bytes:
    """Returns a picture as a file.

    Args:
        pixels: the picture.
        file_format: 'png' and 'webp' (lossless) or 'jpeg' (quality 95, 4:4:4).
    """
    if file_format == "png":
        return _png(pixels)
    options = {
        "webp": {"lossless": True, "method": 0, "quality": 0},
        "jpeg": {"quality": 95, "subsampling": 0},
    }[file_format]
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, file_format, **options)
    return encoded.getvalue()


def _png(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Returns a PNG of differences between rows (filter 2), stored and not deflated.

    The record around it is compressed by zstd: together as small as an ordinary PNG and several
    times as fast to read. Pillow does not offer the filter.
    """
    height, width = pixels.shape[:2]
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = 2
    flat = pixels.reshape(height, 3 * width)
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 0)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
