"""Whole photographs: every kind is read as it is, and written so that other programs read it."""

import inspect
import itertools
import struct

import cv2
import numpy as np
import pytest
from photo_kinds import (
    HEIGHT,
    KINDS,
    WIDTH,
    chunk,
    interleaved,
    noise,
    opencv,
    photo_of,
    pillow,
    png,
    read,
    same,
    smooth,
    tiff,
)
from PIL import Image

from codeformer_jax.data import images, photos
from codeformer_jax.data.images import UnreadableImage
from codeformer_jax.data.photos import PhotoFile, read_photo, write_photo

ENCODERS = {
    ("png", np.uint8): lambda x: pillow(x, "PNG"),
    ("png", np.uint16): png,
    ("webp", np.uint8): lambda x: pillow(x, "WEBP", lossless=True, exact=True),
    ("tiff", np.uint8): lambda x: pillow(x, "TIFF"),
    ("lzw", np.uint16): lambda x: opencv(x, ".tif"),
    ("tiff", np.uint16): lambda x: tiff(
        x, 1 if x.ndim == 2 else 2, 2 if x.ndim == 3 and x.shape[2] == 4 else None
    ),
    ("tiff, big endian", np.uint16): lambda x: tiff(
        x, 1 if x.ndim == 2 else 2, 2 if x.ndim == 3 and x.shape[2] == 4 else None, ">"
    ),
}


@pytest.mark.parametrize(
    ("name", "dtype", "kind"),
    [
        (name, dtype, kind)
        for (name, dtype), kind in itertools.product(ENCODERS, KINDS)
        # Pillow does not read two channels of 16 bits from a TIFF.
        if not (kind == "gray alpha" and dtype == np.uint16 and name != "png")
    ],
)
def test_samples_are_read_as_they_are_stored(tmp_path, name, dtype, kind):
    photo = photo_of(kind, dtype)
    found = read(tmp_path, ENCODERS[name, dtype](interleaved(photo)))
    if name == "webp" and "gray" in kind:  # WebP has no gray.
        found = PhotoFile(found.pixels[..., 0], found.alpha, notes=found.notes)
    same(found, photo.pixels, photo.alpha)
    assert found.notes == ()
    assert found.icc_profile is None
    assert found.exif is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", KINDS)
def test_written_samples_are_those_that_other_programs_read(tmp_path, kind, dtype):
    photo, path = photo_of(kind, dtype), tmp_path / "new" / "å.png"
    assert write_photo(path, photo, "restored") == ()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with Image.open(path) as image:
        pillow_samples = np.asarray(image)
    expected = interleaved(photo)
    if dtype == np.uint8 or kind == "gray":
        np.testing.assert_array_equal(pillow_samples, expected)
    if kind == "gray alpha":  # OpenCV expands gray.
        expected = np.dstack([photo.pixels] * 3 + [photo.alpha])
    decoded = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded.ndim == 3:
        decoded = decoded[..., [2, 1, 0, 3][: decoded.shape[2]]]
    assert decoded.dtype == dtype
    np.testing.assert_array_equal(decoded, expected)
    same(read_photo(path), photo.pixels, photo.alpha)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", ["jpg", "webp"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lossy_formats_report_what_they_cannot_keep(tmp_path, kind, dtype, suffix):
    levels = smooth() if "rgb" in kind else smooth()[..., 0]
    alpha = np.zeros(levels.shape[:2], np.uint8) if "alpha" in kind else None
    if alpha is not None:
        alpha[:, 32:] = 255
    scale = dtype(257 if dtype == np.uint16 else 1)
    photo = PhotoFile(levels * scale, None if alpha is None else alpha * scale)
    path = tmp_path / f"a.{suffix}"
    notes = write_photo(path, photo, "restored")
    expected = [photos.EIGHT_BITS] if dtype == np.uint16 else []
    if suffix == "jpg" and alpha is not None:
        expected.append(images.TRANSPARENT)
    assert notes == tuple(expected)
    with Image.open(path) as image:
        bands = {
            "jpg": "RGB" if "rgb" in kind else "L",
            "webp": "RGBA" if "alpha" in kind else "RGB",
        }
        assert image.mode == bands[suffix]
        found = np.asarray(image.convert("RGBA")).astype(int)
    colour = np.broadcast_to(
        levels if levels.ndim == 3 else levels[..., None], (*levels.shape[:2], 3)
    )
    assert np.abs(found[:, 32:, :3] - colour[:, 32:]).mean() < 2
    if alpha is not None:
        assert (found[:, 40:, 3] == 255).all()
        clear = found[:, :24, :3] if suffix == "jpg" else 255 - found[:, :24, 3]
        assert (clear > 250).all()


def test_16_bits_become_the_nearest_8(tmp_path):
    samples = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    eight, _ = photos._eight_bits(samples)
    np.testing.assert_array_equal(eight, np.round(samples / 257))


def test_palettes_and_transparent_colours(tmp_path):
    indices = np.tile(np.arange(3, dtype=np.uint8), (8, 2))
    image = Image.fromarray(indices, "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    image.save(tmp_path / "opaque.png")
    same(read_photo(tmp_path / "opaque.png"), colours[indices])
    image.save(tmp_path / "clear.png", transparency=1)
    clear = np.where(indices == 1, 0, 255).astype(np.uint8)
    same(read_photo(tmp_path / "clear.png"), colours[indices], clear)
    bits = noise(1) > 99
    Image.fromarray(bits).save(tmp_path / "bits.png")
    same(read_photo(tmp_path / "bits.png"), bits.astype(np.uint8) * 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_transparent_colour_of_16_bits(tmp_path, channels):
    samples = noise(channels, np.uint16)
    samples[:5] = samples[0, 0]
    alpha = np.full((HEIGHT, WIDTH), 65535, np.uint16)
    alpha[:5] = 0
    clear = chunk(b"tRNS", samples[0, :1].astype(">u2").tobytes())
    same(read(tmp_path, png(samples, clear)), samples, alpha)


def test_tiff_of_other_photometry(tmp_path):
    gray, colours = noise(1, np.uint16), noise(4, np.uint16)
    same(read(tmp_path, tiff(gray, 0)), 65535 - gray)
    same(read(tmp_path, tiff(colours, 2, 0)), colours[..., :3])
    alpha = colours[..., 3:].astype(np.uint32)
    premultiplied = (colours[..., :3] * alpha // 65535).astype(np.uint16)
    found = read(tmp_path, tiff(np.dstack([premultiplied, colours[..., 3]]), 2, 1))
    np.testing.assert_array_equal(found.alpha, colours[..., 3])
    error = np.abs(found.pixels.astype(int) - colours[..., :3])
    assert (error <= np.ceil(65535 / np.maximum(alpha, 1))).all()


@pytest.mark.parametrize(
    ("content", "notes"),
    [
        (lambda: tiff(noise(4, np.uint16), 5), (photos.EIGHT_BITS, photos.CMYK)),
        (lambda: b"P6 2 1 1023\n" + bytes(12), (photos.EIGHT_BITS,)),
        (lambda: b"P6 2 1 255\n" + bytes(6), ()),
    ],
)
def test_samples_that_become_8_bits_are_reported(tmp_path, content, notes):
    found = read(tmp_path, content())
    assert found.notes == notes
    assert found.pixels.dtype == np.uint8


def test_gray_ppm_of_10_bits(tmp_path):
    found = read(tmp_path, b"P5 2 1 1023\n" + struct.pack(">2H", 0, 1023))
    same(found, np.array([[0, 65535]], np.uint16))


@pytest.mark.parametrize("value", [np.zeros((4, 4), np.float32), np.zeros((4, 4), np.int32)])
def test_32_bit_samples_are_refused(tmp_path, value):
    Image.fromarray(value).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableImage, match=r"a\.tif.*8 or 16 bits"):
        read_photo(tmp_path / "a.tif")


BROKEN = {
    "empty": (lambda: b"", "the file is empty"),
    "text": (lambda: b"this is no picture", "not an image of a known format"),
    "half.jpg": (lambda: _half(pillow(noise(3), "JPEG")), "[Tt]runcated"),
    "half.png": (lambda: _half(png(noise(3, np.uint16))), "truncated"),
    "half.tif": (lambda: _half(tiff(noise(3, np.uint16), 2)), "truncated"),
}


def _half(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named_with_the_reason(tmp_path, name):
    content, reason = BROKEN[name]
    with pytest.raises(UnreadableImage, match=reason):
        read(tmp_path, content(), name)


def test_bombs_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    whole = png(noise(3, np.uint16))
    head = struct.pack(">IIBBBBB", 20_000, 20_000, 16, 2, 0, 0, 0)  # 2.4 GB of samples.
    bomb = whole[:8] + chunk(b"IHDR", head) + whole[33:]
    monkeypatch.setattr(Image.Image, "load", None)
    monkeypatch.setattr(cv2, "imdecode", None)
    for limit in (None, 399.9):
        with pytest.raises(UnreadableImage, match=r"bombs.*max_megapixels"):
            read(tmp_path, bomb, max_megapixels=limit)


@pytest.mark.parametrize("suffix", ["webp", "jpg"])
def test_pictures_too_large_for_a_format_write_nothing(tmp_path, suffix):
    photo = PhotoFile(np.zeros((1, 65501), np.uint8))
    with pytest.raises(ValueError, match=r"65501x1 px.*choose PNG"):
        write_photo(tmp_path / f"a.{suffix}", photo, "restored")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a"])
def test_unknown_suffix_writes_nothing(tmp_path, name):
    with pytest.raises(ValueError, match=r"none of \.png, \.jpg"):
        write_photo(tmp_path / name, photo_of("rgb"), "restored")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("pixels", "alpha", "message"),
    [
        (np.zeros((4, 4), np.float32), None, r"uint8 or uint16.*float32"),
        (np.zeros((4, 4, 4), np.uint8), None, r"\[4, 4, 4\]"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint16), r"alpha as uint8 \[4, 4\]"),
    ],
)
def test_wrong_pixels_write_nothing(tmp_path, pixels, alpha, message):
    photo = photo_of("rgb")
    object.__setattr__(photo, "pixels", pixels)
    object.__setattr__(photo, "alpha", alpha)
    with pytest.raises(TypeError, match=message):
        inspect.unwrap(write_photo)(tmp_path / "a.png", photo, "restored")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_previous_file(tmp_path, monkeypatch):
    write_photo(tmp_path / "a.png", photo_of("gray"), "restored")

    def full(file, *parts, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(photos, "write_png", full)
    with pytest.raises(OSError, match="No space left"):
        write_photo(tmp_path / "a.png", photo_of("rgb"), "restored")
    same(read_photo(tmp_path / "a.png"), photo_of("gray").pixels)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_pictures_of_several_bands(tmp_path, monkeypatch):
    monkeypatch.setattr("codeformer_jax.data.photo_png._BAND", 300)
    for dtype in (np.uint8, np.uint16):
        photo = photo_of("rgb alpha", dtype)
        write_photo(tmp_path / "a.png", photo, "restored")
        same(read_photo(tmp_path / "a.png"), photo.pixels, photo.alpha)
