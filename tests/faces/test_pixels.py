"""Conversions between dtypes and channels."""

import numpy as np
import pytest

from codeformer_jax.faces.pixels import in_levels, to_dtype, to_rgb8

LEVELS = np.arange(256, dtype=np.uint8).reshape(8, 32)


@pytest.mark.parametrize("channels", [1, 3])
def test_to_rgb8(channels):
    expected = np.dstack([LEVELS] * 3)
    eight = LEVELS if channels == 1 else expected
    for picture in (eight, eight * np.uint16(257), eight / np.float32(255)):
        np.testing.assert_array_equal(to_rgb8(picture), expected)
    assert (to_rgb8(eight) is eight) == (channels == 3)


def test_16_bits_are_rounded_to_the_nearest_level():
    samples = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(to_rgb8(samples)[..., 0], np.round(samples / 257))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_levels_there_and_back(dtype):
    there = to_dtype(in_levels(LEVELS, np.dtype(dtype)), np.dtype(dtype))
    assert there.dtype == dtype
    np.testing.assert_array_equal(to_dtype(in_levels(there, LEVELS.dtype), LEVELS.dtype), LEVELS)
    beyond = to_dtype(np.float32([[-1e6, 1e6]]), np.dtype(dtype))
    assert beyond.tolist() == [[0, 1 if dtype == np.float32 else np.iinfo(dtype).max]]
