"""Whole photographs: every kind is read as it is, and written so that other programs read it."""

import inspect
import io
import itertools
import struct
import zlib

import cv2
import numpy as np
import pytest
from icc import ADOBE, ADOBE_GAMMA, colourless_cmyk_profile, rgb_profile
from PIL import Image, TiffImagePlugin

from codeformer_jax.data import images, photos
from codeformer_jax.data.images import UnreadableImage
from codeformer_jax.data.photos import PhotoFile, read_photo, write_photo

ADOBE_RGB = rgb_profile(ADOBE, ADOBE_GAMMA)
HEIGHT, WIDTH = 20, 30
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


def png(samples, extra=b""):
    """A PNG by its specification, since no library writes 16-bit gray with alpha."""

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    channels = 1 if samples.ndim == 2 else samples.shape[2]
    rows = samples.astype(samples.dtype.newbyteorder(">"))
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    size = (samples.shape[1], samples.shape[0], 8 * samples.itemsize)
    head = struct.pack(">IIBBBBB", *size, kind, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(raw))
    return b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b"")


def trns(*samples):
    data = struct.pack(f">{len(samples)}H", *samples)
    checksum = struct.pack(">I", zlib.crc32(b"tRNS" + data))
    return struct.pack(">I", len(data)) + b"tRNS" + data + checksum


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


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", KINDS)
def test_written_samples_are_those_that_other_programs_read(tmp_path, kind, dtype, suffix):
    photo, path = photo_of(kind, dtype), tmp_path / "new" / f"å.{suffix}"
    notes = write_photo(path, photo, "restored")
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    deep_gray_tiff = (kind, dtype, suffix) == ("gray alpha", np.uint16, "tif")
    assert notes == ((photos.NO_GRAY_ALPHA,) if deep_gray_tiff else ())
    with Image.open(path) as image:
        pillow_samples = np.asarray(image)
    expected = interleaved(photo)
    if dtype == np.uint8 or kind == "gray":
        np.testing.assert_array_equal(pillow_samples, expected)
    if kind == "gray alpha":  # OpenCV expands gray.
        expected = np.dstack([photo.pixels] * 3 + [photo.alpha])
    if suffix == "png" or dtype == np.uint16:  # It premultiplies TIFF's colours of 8 bits.
        decoded = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
        if decoded.ndim == 3:
            decoded = decoded[..., [2, 1, 0, 3][: decoded.shape[2]]]
        assert decoded.dtype == dtype
        np.testing.assert_array_equal(decoded, expected)
    found = read_photo(path)
    same(found, np.dstack([photo.pixels] * 3) if deep_gray_tiff else photo.pixels, photo.alpha)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", ["jpg", "webp"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lossy_formats_say_what_they_cannot_keep(tmp_path, kind, dtype, suffix):
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
    same(read(tmp_path, png(samples, trns(*samples[0, :1].ravel().tolist()))), samples, alpha)


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
def test_samples_that_become_8_bits_are_said(tmp_path, content, notes):
    found = read(tmp_path, content())
    assert found.notes == notes
    assert found.pixels.dtype == np.uint8


def test_gray_ppm_of_10_bits(tmp_path):
    found = read(tmp_path, b"P5 2 1 1023\n" + struct.pack(">2H", 0, 1023))
    same(found, np.array([[0, 65535]], np.uint16))


UPRIGHT_TO_STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright.swapaxes(0, 1)[::-1],
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],
}


def tagged(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_pixels_and_alpha(tmp_path, orientation, suffix, dtype):
    photo = photo_of("rgb alpha", dtype)
    stored = np.ascontiguousarray(UPRIGHT_TO_STORED[orientation](interleaved(photo)))
    if suffix == "tif":
        content = tiff(stored, 2, 2, t274=orientation)
    else:
        data = tagged(orientation)[6:]
        checksum = struct.pack(">I", zlib.crc32(b"eXIf" + data))
        content = png(stored, struct.pack(">I", len(data)) + b"eXIf" + data + checksum)
    found = read(tmp_path, content)
    same(found, photo.pixels, photo.alpha)
    write_photo(tmp_path / "again.png", found, "restored")
    same(read_photo(tmp_path / "again.png"), photo.pixels, photo.alpha)


@pytest.mark.parametrize("orientation", [0, 9])
def test_orientations_that_there_are_not(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    same(read(tmp_path, pillow(noise(3), "PNG", exif=exif)), noise(3))


def test_profiles_are_kept_and_their_colours_not_converted(tmp_path):
    found = read(tmp_path, pillow(noise(3), "PNG", icc_profile=ADOBE_RGB))
    same(found, noise(3))
    assert found.icc_profile == ADOBE_RGB
    assert found.notes == ()
    for suffix in ("png", "jpg", "webp", "tif"):
        write_photo(tmp_path / f"a.{suffix}", found, "restored")
        with Image.open(tmp_path / f"a.{suffix}") as image:
            assert image.info["icc_profile"] == ADOBE_RGB


def test_cmyk_becomes_srgb_by_its_profile(tmp_path):
    inks = np.zeros((8, 8, 4), np.uint8)
    inks[..., 3] = np.arange(0, 256, 32)
    file = io.BytesIO()
    Image.fromarray(inks, "CMYK").save(file, "TIFF", icc_profile=colourless_cmyk_profile())
    found = read(tmp_path, file.getvalue())
    assert found.notes == (photos.CMYK,)
    assert found.icc_profile is None
    np.testing.assert_array_equal(found.pixels, images.read_image(tmp_path / "photo").pixels)
    plain = read(tmp_path, pillow(smooth(), "JPEG"), "rgb").pixels
    Image.fromarray(plain).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    error = read_photo(tmp_path / "cmyk.jpg").pixels.astype(int) - plain
    assert np.abs(error).mean() < 3


def test_the_first_frame_is_said(tmp_path):
    frames = [Image.fromarray(noise(3, seed=seed)) for seed in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    found = read_photo(tmp_path / "a.png")
    same(found, noise(3))
    assert found.notes == (images.FIRST_FRAME,)


def test_texts_that_are_dropped_are_said(tmp_path):
    assert read(tmp_path, pillow(noise(3), "JPEG", comment="mine")).notes == (photos.TEXTS,)
    assert read(tmp_path, pillow(noise(3), "WEBP", xmp=b"<x/>")).notes == (photos.TEXTS,)


def description(path):
    with Image.open(path) as image:
        return image.getexif().get(0x010E)


def test_the_comment_is_where_other_programs_look(tmp_path):
    comment = "faces restored by codeformer-jax"
    for suffix in photos.PHOTO_SUFFIXES:
        write_photo(tmp_path / f"a{suffix}", photo_of("rgb"), comment)
        if suffix != ".png":
            assert description(tmp_path / f"a{suffix}") == comment
    for text in (comment, "å restored — 顔"):
        write_photo(tmp_path / "a.png", photo_of("rgb"), text)
        with Image.open(tmp_path / "a.png") as image:
            assert image.text["Comment"] == text
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.info["comment"] == comment.encode()
        assert image.layer[0][1:3] == (1, 1)  # No chroma subsampling.


def test_exif_data_that_jpeg_has_no_room_for(tmp_path):
    exif = Image.Exif()
    exif[0x9286] = b"ASCII\0\0\0" + bytes(70_000)
    photo = photo_of("rgb", exif=exif.tobytes()[6:])
    assert write_photo(tmp_path / "a.jpg", photo, "restored") == (photos.LONG_EXIF,)
    assert description(tmp_path / "a.jpg") == "restored"
    assert write_photo(tmp_path / "a.png", photo, "restored") == ()
    assert read_photo(tmp_path / "a.png").exif == photo.exif


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
    # 20,000 x 20,000 px of 16 bits: 2.4 GB.
    bomb = png(noise(3, np.uint16)).replace(
        struct.pack(">II", WIDTH, HEIGHT), struct.pack(">II", 20_000, 20_000), 1
    )
    head = bomb[12:29]
    bomb = bomb[:29] + struct.pack(">I", zlib.crc32(head)) + bomb[33:]
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


@pytest.mark.parametrize("name", ["a.gif", "a.bmp", "a"])
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
    monkeypatch.setattr("codeformer_jax.data.photo_formats._BAND", 300)
    for dtype in (np.uint8, np.uint16):
        for suffix in ("png", "tif"):
            photo = photo_of("rgb alpha", dtype)
            write_photo(tmp_path / f"a.{suffix}", photo, "restored")
            same(read_photo(tmp_path / f"a.{suffix}"), photo.pixels, photo.alpha)
