"""Undeflated PNG of row differences: the same pixels as Pillow's, and None for any other data."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from recorded import encoded, noise, write_records

from codeformer_jax.data.records import UnreadableRecord, open_array_record
from codeformer_jax.data.stored_png import decode_stored_png


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def stored(pixels, level=0, filters=2, depth=8, colour=2, interlaced=0):
    """A PNG, written byte by byte from its specification."""
    height, width = pixels.shape[:2]
    flat = pixels.reshape(height, -1)
    rows = np.empty((height, 1 + flat.shape[1]), np.uint8)
    rows[:, 0], rows[0, 1:] = filters, flat[0]
    rows[1:, 1:] = flat[1:] - flat[:-1]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows.tobytes(), level))]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IEND", b"")])


@pytest.mark.parametrize("height", [1, 2, 15, 16, 17, 32, 40, 250])
@pytest.mark.parametrize("width", [1, 7, 300])
def test_the_same_pixels_as_pillow(height, width):
    pixels = noise(height, 300)[:height, :width] if height <= 300 else None
    data = stored(pixels)
    found = decode_stored_png(data)
    np.testing.assert_array_equal(found, pixels)
    np.testing.assert_array_equal(found, np.asarray(Image.open(io.BytesIO(data))))
    assert found.dtype == np.uint8


OTHERS = {
    "deflated": lambda: stored(np.zeros((40, 40, 3), np.uint8), level=6),
    "by Pillow": lambda: encoded(noise(0, 40)),
    "undeflated by Pillow": lambda: encoded(noise(0, 40), compress_level=0),
    "JPEG": lambda: encoded(noise(0, 40), "JPEG"),
    "other filter": lambda: stored(noise(0, 40), filters=1),
    "one row of another filter": lambda: stored(noise(0, 40), filters=[2] * 39 + [0]),
    "16 bits": lambda: stored(noise(0, 40), depth=16),
    "gray": lambda: stored(noise(0, 40)[..., 0], colour=0),
    "interlaced": lambda: stored(noise(0, 40), interlaced=1),
    "a chunk before": lambda: _with_chunk(stored(noise(0, 40)), 33),
    "a chunk behind": lambda: _with_chunk(stored(noise(0, 40)), -12),
    "empty": lambda: b"",
    "a header": lambda: stored(noise(0, 40))[:33],
}


def _with_chunk(data, at):
    return data[:at] + chunk(b"tEXt", b"a\x00b") + data[at:]


@pytest.mark.parametrize("name", OTHERS)
def test_anything_else_is_left_to_others(name):
    assert decode_stored_png(OTHERS[name]()) is None


@pytest.mark.parametrize("length", [34, 41, 50, 60, 4000, -1, -13, -20])
def test_cut_off_data_is_left_to_others(length):
    assert decode_stored_png(stored(noise(0, 40))[:length]) is None


def test_damaged_blocks_are_left_to_others():
    data = bytearray(stored(noise(0, 40)))
    for at in range(41, 50):  # The headers of zlib and of the only block, a filter and a sample.
        damaged = data.copy()
        damaged[at] ^= 0x41
        found = decode_stored_png(bytes(damaged))
        assert (found is None) == (at not in (41, 42, 49))


def test_records_of_such_pictures(tmp_path):
    pictures = [noise(seed, 300) for seed in range(3)]
    records = [stored(each) for each in pictures]
    write_records(tmp_path / "a.array_record", [*records, records[0][:-500]])
    source = open_array_record(f"{tmp_path}/*", 300, "all")
    for index, each in enumerate(pictures):
        np.testing.assert_array_equal(source[index]["image"], each)
    with pytest.raises(UnreadableRecord, match=r"a\.array_record:3"):
        source[3]
