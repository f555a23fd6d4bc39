"""Contents of a prepared dataset: pictures, names, splits, metadata."""

import json
import unicodedata

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from prepare.support import fill, picture, read_all, read_split, rejected, save, splits
from tensorflow_datasets.core import decode

from codeformer_jax.data.folder import ImageFolder, name_hash
from codeformer_jax.data.images import read_image, resize_image
from codeformer_jax.prepare.examine import FORMATS, encode
from codeformer_jax.prepare.staging import PrepareError


def test_tfds_opens_it_and_reads_the_pictures_of_the_folder(room):
    fill(room.faces, 30)
    summary = room.prepare()
    assert summary.splits == {"train": 27, "validation": 3}
    assert str(summary) == f"{room.out}: 27 train and 3 validation images"
    builder = tfds.builder_from_directory(str(room.out))
    assert builder.info.splits["train"].num_examples == 27
    assert builder.info.features["image"].shape == (16, 16, 3)
    expected = {
        name: resize_image(read_image(room.faces / name).pixels, 16)
        for name in ImageFolder(room.faces, 16, "all").names
    }
    found = read_all(room.out)
    assert found.keys() == expected.keys()
    for name, pixels in expected.items():
        np.testing.assert_array_equal(found[name], pixels)
    assert rejected(room.out) == {}
    assert not room.partial.exists()


def test_records_come_in_the_order_of_a_stable_hash(room):
    fill(room.faces, 20)
    room.prepare(validation_fraction=0.0)
    names = list(read_split(room.out, "train"))
    assert names == sorted(names, key=name_hash)
    assert names != sorted(names)


def test_splits_are_those_of_the_folder_and_stay_when_files_and_sources_are_added(room, tmp_path):
    fill(room.faces, 40)
    room.prepare(validation_fraction=0.3)
    train = set(read_split(room.out, "train"))
    validation = set(read_split(room.out, "validation"))
    held_out = ImageFolder(room.faces, 16, "heldout", heldout_fraction=0.3)
    assert validation == set(held_out.names)
    assert len(train) + len(validation) == 40
    fill(room.faces, 40, first=40)
    fill(tmp_path / "more", 10, first=100)
    room.prepare(room.faces, tmp_path / "more", validation_fraction=0.3, force=True)
    assert {f"faces/{name}" for name in train} < set(read_split(room.out, "train"))
    assert {f"faces/{name}" for name in validation} < set(read_split(room.out, "validation"))
    assert len(read_all(room.out)) == 90


@pytest.mark.parametrize(("fraction", "split"), [(0.0, "train"), (1.0, "validation")])
def test_an_empty_split_is_absent(room, fraction, split):
    fill(room.faces, 5)
    room.prepare(validation_fraction=fraction)
    assert splits(room.out) == {split}
    assert len(read_split(room.out, split)) == 5


def test_one_image(room):
    save(room.faces / "only.png")
    assert room.prepare().splits == {"train": 1}
    assert list(read_split(room.out, "train")) == ["only.png"]


def test_names_with_spaces_unicode_newlines_and_equal_ones_in_other_folders(room, tmp_path):
    decomposed = unicodedata.normalize("NFD", "é.png")
    names = ["a b/1.png", "ünï 漢/1.png", decomposed, "~x%20#'\".png", "line\nbreak.png", "c/1.png"]
    for index, name in enumerate(names):
        save(room.faces / name, index)
    save(tmp_path / "other" / "1.png", 50)
    save(tmp_path / "other" / "c" / "1.png", 51)
    room.prepare(room.faces, tmp_path / "other")
    found = read_all(room.out)
    assert set(found) == {f"faces/{name}" for name in names} | {"other/1.png", "other/c/1.png"}
    np.testing.assert_array_equal(found["other/c/1.png"], resize_image(picture(51), 16))
    np.testing.assert_array_equal(found["faces/c/1.png"], resize_image(picture(5), 16))


def test_a_name_that_is_no_unicode_is_kept_readable(room):
    save(room.faces / "a.png", 1)
    try:
        save(room.faces / "b\udcff.png", 2)
    except OSError:
        pytest.skip("this file system takes only Unicode names")
    room.prepare()
    assert set(read_all(room.out)) == {"a.png", "b\\udcff.png"}


def test_sources_of_one_name_would_mix(room, tmp_path):
    for parent in ("x", "y"):
        save(tmp_path / parent / "faces" / "1.png")
    with pytest.raises(PrepareError, match=r"two sources are called 'faces' .* rename one"):
        room.prepare(tmp_path / "x" / "faces", tmp_path / "y" / "faces")
    assert not room.out.exists()
    assert not room.partial.exists()


def test_every_kind_of_file_becomes_upright_rgb(room):
    room.faces.mkdir()
    upright = picture(0, 24, 24)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(np.ascontiguousarray(upright[::-1, ::-1])).save(
        room.faces / "turned.png", exif=exif
    )
    Image.fromarray(upright[..., 0]).save(room.faces / "gray.png")
    Image.fromarray(upright[..., 0].astype(np.uint16) * 257).save(room.faces / "deep.png")
    opaque = np.full((24, 24, 1), 255, np.uint8)
    Image.fromarray(np.concatenate([upright, opaque], -1)[:, ::-1]).save(room.faces / "alpha.png")
    flat = Image.new("CMYK", (24, 24), (0, 255, 255, 0))
    flat.save(room.faces / "cmyk.jpg", quality=95)
    room.prepare(size=24, max_rejected=1)
    found = read_all(room.out)
    np.testing.assert_array_equal(found["turned.png"], upright)
    np.testing.assert_array_equal(found["alpha.png"], upright[:, ::-1])
    gray = np.repeat(upright[..., :1], 3, axis=-1)
    np.testing.assert_array_equal(found["deep.png"], gray)  # The same picture as gray.png.
    assert rejected(room.out) == {"gray.png": ("duplicate", "the same picture as 'deep.png'")}
    assert np.abs(found["cmyk.jpg"].astype(int) - (255, 0, 0)).max() <= 3


def test_pictures_are_found_by_their_content(room):
    fill(room.faces, 2)
    for name, file_format in (("a.tga", "TGA"), ("b.jp2", "JPEG2000"), ("c", "PNG")):
        Image.fromarray(picture(ord(name[0]), 16, 16)).save(room.faces / name, file_format)
    room.prepare()
    found = read_all(room.out)
    assert set(found) == {"000.png", "001.png", "a.tga", "b.jp2", "c"}
    np.testing.assert_array_equal(found["c"], picture(ord("c"), 16, 16))


def test_max_megapixels(room, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    fill(room.faces, 2)
    save(room.faces / "large.png", 5, height=40, width=40)
    room.prepare()
    assert set(rejected(room.out)) == {"large.png"}
    room.prepare(max_megapixels=0.0016, force=True)
    assert set(read_all(room.out)) == {"000.png", "001.png", "large.png"}
    assert json.loads((room.out / "metadata.json").read_text())["max_megapixels"] == 0.0016


def test_pictures_are_cropped_to_the_middle(room):
    save(room.faces / "wide.png", 3, height=16, width=40)
    room.prepare()
    np.testing.assert_array_equal(read_all(room.out)["wide.png"], picture(3, 16, 40)[:, 12:28])


@pytest.mark.parametrize("file_format", FORMATS)
def test_formats(room, file_format):
    y, x = np.mgrid[:32, :32]
    smooth = np.stack([4 * x, 4 * y, 60 + 2 * x + y], axis=-1).astype(np.uint8)
    room.faces.mkdir()
    Image.fromarray(smooth).save(room.faces / "a.png")
    room.prepare(size=32, file_format=file_format)
    error = np.abs(read_all(room.out)["a.png"].astype(int) - smooth)
    assert error.max() <= (8 if file_format == "jpeg" else 0)
    source = tfds.builder_from_directory(str(room.out)).as_data_source(
        "train", decoders={"image": decode.SkipDecoding()}
    )
    start = {"png": b"\x89PNG", "webp": b"RIFF", "jpeg": b"\xff\xd8"}[file_format]
    assert bytes(source[0]["image"]).startswith(start)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (9, 1), (5, 8)])
def test_png_is_read_by_pillow_and_opencv(tmp_path, height, width):
    pixels = picture(1, height, width)
    (tmp_path / "a.png").write_bytes(encode(pixels, "png"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, pixels)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"))[..., ::-1], pixels)


def test_metadata_says_what_it_was_made_with(room):
    fill(room.faces, 3)
    (room.faces / "notes.txt").write_text("not an image")
    summary = room.prepare(min_size=3, file_format="webp", validation_fraction=0.0)
    metadata = json.loads((room.out / "metadata.json").read_text())
    assert metadata == {
        "splits": {"train": 3},
        "rejected": {"other": 1},
        "size": 16,
        "format": "webp",
        "min_size": 3,
        "validation_fraction": 0.0,
        "max_megapixels": None,
        "fingerprint": summary.fingerprint,
    }


def test_the_fingerprint_is_that_of_names_and_pixels(room):
    fill(room.faces, 3)
    first = room.prepare().fingerprint
    assert room.prepare(file_format="webp", force=True).fingerprint == first
    save(room.faces / "000.png", 77)
    assert room.prepare(force=True).fingerprint != first
