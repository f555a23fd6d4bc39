"""Small photographs of every kind, and files of them by the formats' specifications."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin

from codeformer_jax.data.photos import PhotoFile, read_photo

HEIGHT, WIDTH = 20, 30
# How the upright picture is stored under each EXIF orientation (EXIF 2.3, tag 0x0112).
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright.swapaxes(0, 1)[::-1],
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],
}
KINDS = ("gray", "gray alpha", "rgb", "rgb alpha")


def noise(channels, dtype=np.uint8, seed=0):
    shape = (HEIGHT, WIDTH, channels) if channels > 1 else (HEIGHT, WIDTH)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def smooth(height=48, width=64):
    y, x = np.mgrid[:height, :width]
    return np.stack([3 * x, 4 * y, 90 + x + y], axis=-1).astype(np.uint8)


def photo_of(kind, dtype=np.uint8, **facts):
    pixels = noise(3 if "rgb" in kind else 1, dtype)
    return PhotoFile(pixels, noise(1, dtype, seed=1) if "alpha" in kind else None, **facts)


def interleaved(photo):
    return photo.pixels if photo.alpha is None else np.dstack([photo.pixels, photo.alpha])


def chunk(kind, data):
    """A chunk of a PNG."""
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png(samples, extra=b""):
    """A PNG by its specification, since no library writes 16-bit gray with alpha."""
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    rows = samples.astype(samples.dtype.newbyteorder(">"))
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    size = (samples.shape[1], samples.shape[0], 8 * samples.itemsize)
    head = struct.pack(">IIBBBBB", *size, kind, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(raw))
    return b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b"")


def tiff(samples, photometric, extra=None, order="<", **tags):
    """An uncompressed TIFF by its specification."""
    head = b"II*\0\0\0\0\0" if order == "<" else b"MM\0*\0\0\0\0"
    directory = TiffImagePlugin.ImageFileDirectory_v2(head)
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    directory[256], directory[257] = samples.shape[1], samples.shape[0]
    directory[258] = (8 * samples.itemsize,) * channels
    directory[259], directory[262], directory[273], directory[277] = 1, photometric, 0, channels
    directory[278], directory[279] = samples.shape[0], len(data)
    if extra is not None:
        directory[338] = extra
    for tag, value in tags.items():
        directory[int(tag[1:])] = value
    file = io.BytesIO()
    directory.save(file)
    return file.getvalue() + data


def pillow(samples, suffix, **options):
    file = io.BytesIO()
    Image.fromarray(samples).save(file, suffix, **options)
    return file.getvalue()


def opencv(samples, suffix):
    swapped = samples if samples.ndim == 2 else samples[..., [2, 1, 0, 3][: samples.shape[2]]]
    return cv2.imencode(suffix, swapped)[1].tobytes()


def read(folder, content, name="photo", **options):
    (folder / name).write_bytes(content)
    return read_photo(folder / name, **options)


def same(photo, pixels, alpha=None):
    assert photo.pixels.dtype == pixels.dtype
    assert photo.pixels.flags.writeable
    np.testing.assert_array_equal(photo.pixels, pixels)
    assert (photo.alpha is None) == (alpha is None)
    if alpha is not None:
        assert photo.alpha.dtype == pixels.dtype
        np.testing.assert_array_equal(photo.alpha, alpha)
