"""Colour profiles of pictures: what is converted, what is left alone, what cannot be used."""

import io
import logging

import numpy as np
import pytest
from data import icc
from PIL import Image, ImageCms

from codeformer_jax.data import images, profiles
from codeformer_jax.data.images import decode_image, read_image

ADOBE = icc.rgb_profile(icc.ADOBE, icc.ADOBE_GAMMA)
SRGB = {
    "littleCMS": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "with a table": icc.rgb_profile(icc.SRGB, icc.srgb_curve()),
}


@pytest.fixture
def colours():
    """Muted colours [32, 32, 3], which sRGB has whatever the space they are in."""
    return np.random.default_rng(0).integers(70, 190, (32, 32, 3)).astype(np.uint8)


def test_adobe_rgb_becomes_srgb(tmp_path, colours):
    Image.fromarray(colours).save(tmp_path / "a.png", icc_profile=ADOBE)
    picture = read_image(tmp_path / "a.png")
    assert picture.notes == (profiles.CONVERTED,)
    expected = icc.from_adobe_rgb(colours)
    assert np.abs(picture.pixels - expected).max() <= 1
    assert np.abs(colours - expected).mean() > 3
    data = (tmp_path / "a.png").read_bytes()
    np.testing.assert_array_equal(decode_image(data, "record 1"), picture.pixels)


@pytest.mark.parametrize("name", SRGB)
def test_pixels_with_a_profile_of_srgb_stay_as_they_are(tmp_path, colours, name):
    assert not profiles.changes_colours(SRGB[name])
    Image.fromarray(colours).save(tmp_path / "a.png", icc_profile=SRGB[name])
    picture = read_image(tmp_path / "a.png")
    assert picture.notes == ()
    np.testing.assert_array_equal(picture.pixels, colours)
    data = (tmp_path / "a.png").read_bytes()
    np.testing.assert_array_equal(decode_image(data, "record 1"), colours)


def test_alpha_keeps_its_place_under_a_profile(tmp_path, colours):
    alpha = np.full((32, 32, 1), 255, np.uint8)
    alpha[:16] = 0
    Image.fromarray(np.concatenate([colours, alpha], -1)).save(
        tmp_path / "a.png", icc_profile=ADOBE
    )
    picture = read_image(tmp_path / "a.png")
    assert picture.notes == (images.TRANSPARENT, profiles.CONVERTED)
    assert (picture.pixels[:16] == 255).all()
    assert np.abs(picture.pixels - icc.from_adobe_rgb(colours))[16:].max() <= 1


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_gray_with_a_gray_profile(tmp_path, mode):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    image = Image.fromarray(ramp if mode != "I;16" else ramp.astype(np.uint16) * 257)
    image = image.convert(mode)
    image.save(tmp_path / "a.png", icc_profile=icc.gray_profile(1.8))
    picture = read_image(tmp_path / "a.png")
    assert picture.notes == (profiles.CONVERTED,)
    light = (ramp[0] / 255) ** (round(1.8 * 256) / 256)
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(picture.pixels[0] - 255 * expected[:, None]).max() <= 1


def test_gray_with_a_profile_of_rgb(tmp_path):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    Image.fromarray(ramp).save(tmp_path / "a.png", icc_profile=ADOBE)
    expected = icc.from_adobe_rgb(np.repeat(ramp[..., None], 3, axis=-1))
    assert np.abs(read_image(tmp_path / "a.png").pixels - expected).max() <= 1


def test_cmyk_with_a_profile(tmp_path):
    inks = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    inks.save(tmp_path / "plain.tif")
    inks.save(tmp_path / "profiled.tif", icc_profile=icc.colourless_cmyk_profile())
    cyan, gray = (read_image(tmp_path / name) for name in ("plain.tif", "profiled.tif"))
    assert cyan.pixels[0, 0].tolist() == [0, 255, 255]
    assert gray.notes == (profiles.CONVERTED,)
    assert np.ptp(gray.pixels[0, 0].astype(int)) <= 2
    # L* = 70 is a level of 171.
    assert np.abs(gray.pixels.astype(int) - 171).max() <= 2


@pytest.mark.parametrize("profile", [b"no profile", ADOBE[:200], icc.colourless_cmyk_profile()])
def test_a_profile_that_cannot_be_used_is_reported_and_taken_as_srgb(
    tmp_path, caplog, colours, profile
):
    profile += bytes([len(tmp_path.name)])  # Each is logged once in a process.
    Image.fromarray(colours).save(tmp_path / "a.png", icc_profile=profile)
    with caplog.at_level(logging.WARNING):
        first, second = (read_image(tmp_path / "a.png") for _ in range(2))
    assert first.notes == second.notes == (profiles.UNUSABLE,)
    np.testing.assert_array_equal(first.pixels, colours)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert messages[0].startswith(f"a colour profile of {len(profile)} bytes cannot be used (")


def test_records_with_a_profile(colours):
    encoded = io.BytesIO()
    Image.fromarray(colours).save(encoded, "WEBP", lossless=True, icc_profile=ADOBE)
    pixels = decode_image(encoded.getvalue(), "record 1")
    assert np.abs(pixels - icc.from_adobe_rgb(colours)).max() <= 1
