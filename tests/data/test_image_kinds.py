"""Kinds of files that are pictures, whatever their names, and remarks on what reading drops."""

import os

import numpy as np
import pytest
from PIL import Image

from codeformer_jax.data import images
from codeformer_jax.data.images import UnreadableImage, read_image


def smooth(height=48, width=64):
    y, x = np.mgrid[:height, :width]
    return np.stack([3 * x, 4 * y, 90 + x + y], axis=-1).astype(np.uint8)


KINDS = {
    "jfif": ("JPEG", {}),
    "gif": ("GIF", {}),
    "avif": ("AVIF", {}),
    "jp2": ("JPEG2000", {}),
    "ppm": ("PPM", {}),
    "qoi": ("QOI", {}),
    "ico": ("ICO", {"sizes": [(64, 48)]}),
    "pcx": ("PCX", {}),
    "sgi": ("SGI", {}),
    "dds": ("DDS", {}),
    "tga": ("TGA", {}),
}


@pytest.mark.parametrize("suffix", KINDS)
def test_other_formats_are_read_by_their_content(tmp_path, suffix):
    file_format, options = KINDS[suffix]
    Image.init()
    if file_format not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {file_format}")
    for name in (f"a.{suffix}", "photo", "wrong.png"):
        Image.fromarray(smooth()).save(tmp_path / name, file_format, **options)
        assert images.is_picture(tmp_path / name)
        error = read_image(tmp_path / name).pixels.astype(int) - smooth()
        assert np.abs(error).mean() < 12  # A GIF has 256 colours.
    assert images.has_picture_suffix(tmp_path / f"A.{suffix.upper()}")


def test_files_of_other_programs_are_no_pictures(tmp_path):
    contents = {
        "notes.txt": b"Python, P6, and more",
        "data": b"BM is not a bitmap" + bytes(99),
        "zeros.bin": bytes(1000),
        "array.npy": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}",
        "film.mp4": b"\0\0\0 ftypisom\0\0\2\0isomiso2avc1mp41",
        "paper.pdf": b"%PDF-1.7\n",
        "empty": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")  # Opening it would wait for ever.
    (tmp_path / "folder").mkdir()
    for name in (*contents, "pipe", "folder", "nowhere"):
        assert not images.is_picture(tmp_path / name), name


@pytest.mark.parametrize("name", ["a.heic", "a.HEIF", "a.nef", "a.jxl"])
def test_pictures_that_nothing_reads_say_so(tmp_path, name):
    # As cameras write them: a preview of the picture comes first in their TIFF.
    Image.fromarray(smooth()).save(tmp_path / "preview.tif")
    content = (tmp_path / "preview.tif").read_bytes()
    if not name.endswith("nef"):
        content = b"\0\0\0 ftypheic\0\0\0\0mif1heic"
    (tmp_path / name).write_bytes(content)
    assert images.is_picture(tmp_path / name)
    with pytest.raises(UnreadableImage, match=f"{name[1:].lower()} files cannot be read; export"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_the_first_of_several_frames(tmp_path, suffix):
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if suffix == "webp" else {}
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second], **options)
    picture = read_image(tmp_path / f"a.{suffix}")
    assert picture.notes == (images.FIRST_FRAME,)
    assert (picture.pixels == (255, 0, 0)).all()


@pytest.mark.parametrize(("tag", "value"), [(0x010F, "a camera"), (0x0112, 3)])
def test_exif_data_that_are_dropped_are_noted(tmp_path, tag, value):
    exif = Image.Exif()
    exif[tag] = value
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", exif=exif)
    # The orientation is applied, so that nothing is lost.
    assert read_image(tmp_path / "a.jpg").notes == ((images.METADATA,) if tag != 0x0112 else ())


def test_alpha_that_hides_nothing_is_not_noted(tmp_path):
    Image.fromarray(smooth()).convert("RGBA").save(tmp_path / "a.png")
    picture = read_image(tmp_path / "a.png")
    assert picture.notes == ()
    np.testing.assert_array_equal(picture.pixels, smooth())


def test_16_bit_pgm_is_scaled(tmp_path):
    samples = np.array([[0, 257, 32896, 65535]], ">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5\n4 1\n65535\n" + samples.tobytes())
    assert read_image(tmp_path / "a.pgm").pixels[0, :, 0].tolist() == [0, 1, 128, 255]
