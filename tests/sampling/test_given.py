"""What stands before a map is drawn."""

import numpy as np
import pytest

from codeformer_jax.sampling.prefix import check_given

WORDS = ("codes", "prior")
KEEP = np.array([[True, False, True], [False, False, False]])


def test_nothing_stands_where_nothing_is_given():
    given, keep = check_given(None, None, (2, 2, 3), 8, WORDS)
    assert (given.shape, given.dtype) == ((2, 2, 3), np.int32)
    assert keep.shape == (2, 3)
    assert not keep.any()


@pytest.mark.parametrize("shape", [(2, 2, 3), (2, 2, 3, 2)])
def test_what_is_not_kept_is_zero_and_may_be_anything(shape):
    maps = np.full(shape, 99)
    maps[:, KEEP] = 7
    given, keep = check_given(maps, KEEP, shape, 8, WORDS)
    assert given.dtype == np.int32
    assert (given[:, KEEP] == 7).all()
    assert (given[:, ~KEEP] == 0).all()
    np.testing.assert_array_equal(keep, KEEP)


@pytest.mark.parametrize(
    ("given", "keep", "message"),
    [
        (np.zeros((2, 2, 3), int), None, "give the codes to keep .* or neither"),
        (None, KEEP, "give the codes to keep .* or neither"),
        (np.zeros((1, 2, 3), int), KEEP, r"\[1, 2, 3\].*expected \[2, 2, 3\]"),
        (np.zeros((2, 2, 3), int), KEEP[:1], r"bool \[1, 3\].*and bool \[2, 3\]"),
        (np.zeros((2, 2, 3), int), KEEP.astype(int), r"a mask int64"),
        (np.full((2, 2, 3), 8), KEEP, "from 8 to 8; this prior knows 0 to 7"),
        (np.full((2, 2, 3), -1), KEEP, "from -1 to -1"),
    ],
)
def test_what_does_not_fit_is_refused(given, keep, message):
    with pytest.raises(ValueError, match=message):
        check_given(given, keep, (2, 2, 3), 8, WORDS)
