"""Orientation, colour profiles and texts of photographs; `test_exif` has EXIF data."""

import io

import numpy as np
import pytest
from icc import ADOBE, ADOBE_GAMMA, colourless_cmyk_profile, rgb_profile
from photo_kinds import (
    STORED,
    chunk,
    interleaved,
    noise,
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
from codeformer_jax.data.photos import read_photo, write_photo

ADOBE_RGB = rgb_profile(ADOBE, ADOBE_GAMMA)


def tagged(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_pixels_and_alpha(tmp_path, orientation, suffix, dtype):
    photo = photo_of("rgb alpha", dtype)
    stored = np.ascontiguousarray(STORED[orientation](interleaved(photo)))
    if suffix == "tif":
        content = tiff(stored, 2, 2, t274=orientation)
    else:
        content = png(stored, chunk(b"eXIf", tagged(orientation)[6:]))
    found = read(tmp_path, content)
    same(found, photo.pixels, photo.alpha)
    assert found.exif is None
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
    for suffix in ("png", "jpg", "webp"):
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


def test_the_first_frame_is_reported(tmp_path):
    frames = [Image.fromarray(noise(3, seed=seed)) for seed in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    found = read_photo(tmp_path / "a.png")
    same(found, noise(3))
    assert found.notes == (images.FIRST_FRAME,)


def test_pictures_beside_the_first_one_are_reported(tmp_path):
    image = Image.fromarray(smooth())
    image.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[image.reduce(2)])
    found = read_photo(tmp_path / "a.jpg")
    assert found.pixels.shape == (48, 64, 3)
    assert found.notes == (photos.EXTRAS,)


def test_texts_that_are_dropped_are_reported(tmp_path):
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


@pytest.mark.parametrize("suffix", photos.PHOTO_SUFFIXES)
def test_no_comment(tmp_path, suffix):
    write_photo(tmp_path / f"a{suffix}", photo_of("rgb"), "")
    found = read_photo(tmp_path / f"a{suffix}")
    assert found.exif is None
    assert found.notes == ()


def test_exif_data_that_jpeg_has_no_room_for(tmp_path):
    exif = Image.Exif()
    exif[0x9286] = b"ASCII\0\0\0" + bytes(70_000)
    photo = photo_of("rgb", exif=exif.tobytes()[6:])
    assert write_photo(tmp_path / "a.jpg", photo, "restored") == (photos.LONG_EXIF,)
    assert description(tmp_path / "a.jpg") == "restored"
    assert write_photo(tmp_path / "a.png", photo, "restored") == ()
    assert read_photo(tmp_path / "a.png").exif == photo.exif
