"""EXIF data lose orientation and thumbnail and gain a text; all other values stay as they are."""

import io
import struct

import numpy as np
import pytest
from PIL import ExifTags, Image

from codeformer_jax.data import exif, photos
from codeformer_jax.data.photos import read_photo, write_photo

THUMBNAIL = b"\xff\xd8 the face as it was before \xff\xd9"
MAKER_NOTE = b"Maker\0" + bytes(range(40))


def camera_data(order="<", orientation=6, description=b"", after_thumbnail=b""):
    """EXIF data as cameras write them: two directories, a nested one, and a thumbnail."""

    def directory(start, entries, values, following=0):
        text, at = b"", start + 2 + 12 * len(entries) + 4
        for tag, kind, count, value in entries:
            text += struct.pack(order + "HHI", tag, kind, count)
            if isinstance(value, int):
                text += struct.pack(order + ("H2x" if kind == 3 else "I"), value)
            else:
                values[at] = value
                text += struct.pack(order + "I", at)
                at += len(value) + len(value) % 2
        return struct.pack(order + "H", len(entries)) + text + struct.pack(
            order + "I", following
        ), at

    values = {}
    first = [(0x010F, 2, 7, b"Camera\0"), (0x0112, 3, 1, orientation), (0x8769, 4, 1, 0)]
    if description:
        first.insert(0, (0x010E, 2, len(description), description))
    _, nested_at = directory(8, first, {})
    nested = [
        (0x829A, 5, 1, struct.pack(order + "II", 10, 600)),  # A library would reduce the fraction.
        (0x927C, 7, len(MAKER_NOTE), MAKER_NOTE),
    ]
    nested_text, second_at = directory(nested_at, nested, values)
    first[-1] = (0x8769, 4, 1, nested_at)
    first_text, _ = directory(8, first, values, second_at)
    thumbnail_at = second_at + 2 + 24 + 4
    second = [(0x0201, 4, 1, thumbnail_at), (0x0202, 4, 1, len(THUMBNAIL))]
    second_text, _ = directory(second_at, second, {})
    values |= {8: first_text, nested_at: nested_text, second_at: second_text}
    values[thumbnail_at] = THUMBNAIL + after_thumbnail
    data = bytearray(thumbnail_at + len(values[thumbnail_at]))
    for at, value in values.items():
        data[at : at + len(value)] = value
    head = b"II*\0" if order == "<" else b"MM\0*"
    data[:8] = head + struct.pack(order + "I", 8)
    return bytes(data)


def tags(data):
    """The tags that Pillow finds, including those of nested directories and the thumbnail's."""
    found = Image.Exif()
    found.load(data)
    nested = {tag: dict(found.get_ifd(tag)) for tag in (exif.EXIF, exif.GPS, ExifTags.IFD.IFD1)}
    return dict(found) | {tag: values for tag, values in nested.items() if values}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("after", [b"", b"more data"])
def test_orientation_and_thumbnail_go_and_all_others_stay(order, after):
    data = camera_data(order, after_thumbnail=after)
    expected = tags(data)
    assert expected.pop(0x0112) == 6
    assert expected.pop(ExifTags.IFD.IFD1)[0x0202] == len(THUMBNAIL)
    stripped = exif.strip(data)
    assert tags(stripped) == expected
    assert THUMBNAIL[2:-2] not in stripped
    assert after in stripped
    for value in (MAKER_NOTE, struct.pack(order + "II", 10, 600)):
        assert stripped.index(value) == data.index(value)
    assert exif.strip(stripped) == stripped


def test_a_tiff_keeps_what_describes_the_picture(tmp_path):
    exif_of_tiff = Image.Exif()
    values = {0x010F: "Scanner", 0x011A: 300.0, 0x011B: 300.0, 0x0128: 2, 0x8298: "me"}
    for tag, value in values.items():
        exif_of_tiff[tag] = value
    image = Image.fromarray(np.zeros((4, 6), np.uint8))
    image.save(tmp_path / "a.tif", exif=exif_of_tiff)
    photo = read_photo(tmp_path / "a.tif")
    assert tags(photo.exif) == values


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_text_is_added_and_the_users_own_stays(order):
    stripped = exif.strip(camera_data(order))
    described = exif.describe(stripped, "restored")
    assert tags(described) == tags(stripped) | {0x010E: "restored"}
    assert exif.describe(described, "restored") == described
    assert described.index(MAKER_NOTE) == stripped.index(MAKER_NOTE)
    own = exif.strip(camera_data(order, description=b"A wedding \0"))
    assert tags(exif.describe(own, "restored"))[0x010E] == "A wedding; restored"
    assert tags(exif.describe(None, "restored")) == {0x010E: "restored"}
    assert tags(exif.describe(None, "abc"))[0x010E] == "abc"  # A value inside its entry.


def test_damaged_data_raise_only_value_error():
    data, random = camera_data(), np.random.default_rng(0)
    damaged = 0
    for index in range(2000):
        changed = bytearray(data[: random.integers(len(data))] if index % 2 else data)
        for _ in range(index % 4):
            if changed:
                changed[random.integers(len(changed))] = random.integers(256)
        try:
            exif.describe(exif.strip(bytes(changed)), "restored")
        except ValueError:
            damaged += 1
    assert 500 < damaged < 2000


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_files_keep_the_data(tmp_path, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    stored = np.ascontiguousarray(np.rot90(pixels))
    image = Image.fromarray(stored)
    image.save(tmp_path / "in.jpg", exif=exif.PREFIX + camera_data(), quality=95)
    photo = read_photo(tmp_path / "in.jpg")
    assert photo.pixels.shape == (20, 30, 3)
    assert photo.notes == ()
    write_photo(tmp_path / f"out.{suffix}", photo, "restored")
    again = read_photo(tmp_path / f"out.{suffix}")
    assert again.pixels.shape == (20, 30, 3)
    found = tags(again.exif)
    assert found[0x010F] == "Camera"
    assert found[exif.EXIF][0x829A] == pytest.approx(1 / 60)
    assert found[exif.EXIF][0x927C] == MAKER_NOTE
    assert not found.keys() & {0x0112, ExifTags.IFD.IFD1}
    assert (found.get(0x010E) == "restored") == (suffix != "png")
    content = (tmp_path / f"out.{suffix}").read_bytes()
    assert THUMBNAIL[2:-2] not in content
    if suffix == "png":
        assert photo.exif in content


def test_data_that_image_magick_stores_in_a_text(tmp_path):
    from PIL import PngImagePlugin  # noqa: PLC0415

    data = exif.PREFIX + camera_data(orientation=3)
    texts = PngImagePlugin.PngInfo()
    digits = data.hex()
    texts.add_text("Raw profile type exif", f"\nexif\n{len(data):8}\n{digits}\n", zip=True)
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 6)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", pnginfo=texts)
    (tmp_path / "a.png").write_bytes(file.getvalue())
    photo = read_photo(tmp_path / "a.png")
    np.testing.assert_array_equal(photo.pixels, pixels[::-1, ::-1])
    assert photo.exif == exif.strip(camera_data(orientation=3))
    assert photo.notes == ()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_data_of_a_file_are_dropped_and_reported(tmp_path):
    pixels = np.full((20, 30, 3), 99, np.uint8)
    for data in (b"MM\0*\0\0\xff\xff\0\0", b"?", camera_data()[:60]):
        Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif.PREFIX + data)
        photo = read_photo(tmp_path / "a.jpg")
        assert photo.pixels.size == pixels.size
        assert photo.exif is None
        assert photo.notes == (photos.DAMAGED_EXIF,)
