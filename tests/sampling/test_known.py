"""Known values of a map."""

import numpy as np
import pytest

from codeformer_jax.sampling.sampler import check_known

MASK = np.array([[True, False, True], [False, False, False]])


def test_without_known_values_every_site_is_sampled():
    known, mask = check_known(None, None, (2, 2, 3), 8)
    assert (known.shape, known.dtype) == ((2, 2, 3), np.int32)
    assert mask.shape == (2, 3)
    assert not mask.any()


@pytest.mark.parametrize("shape", [(2, 2, 3), (2, 2, 3, 2)])
def test_unknown_sites_become_zero_whatever_they_hold(shape):
    maps = np.full(shape, 99)
    maps[:, MASK] = 7
    known, mask = check_known(maps, MASK, shape, 8)
    assert known.dtype == np.int32
    assert (known[:, MASK] == 7).all()
    assert (known[:, ~MASK] == 0).all()
    np.testing.assert_array_equal(mask, MASK)


@pytest.mark.parametrize(
    ("known", "mask", "message"),
    [
        (np.zeros((2, 2, 3), int), None, "go together: give both, or neither"),
        (None, MASK, "go together: give both, or neither"),
        (np.zeros((1, 2, 3), int), MASK, r"\[1, 2, 3\].*expected \[2, 2, 3\]"),
        (np.zeros((2, 2, 3), int), MASK[:1], r"bool \[1, 3\].*and bool \[2, 3\]"),
        (np.zeros((2, 2, 3), int), MASK.astype(int), r"known_mask is int64"),
        (np.full((2, 2, 3), 8), MASK, "from 8 to 8; the network has 0 to 7"),
        (np.full((2, 2, 3), -1), MASK, "from -1 to -1"),
    ],
)
def test_values_that_do_not_fit_are_refused(known, mask, message):
    with pytest.raises(ValueError, match=message):
        check_known(known, mask, (2, 2, 3), 8)
