"""Windows of maps larger than those of training."""

import itertools

import numpy as np
import pytest

from codeformer_jax.sampling.gpt import plan_windows


def published_offset(i, extent, window):
    """Returns the rows between a window's first row and row i, as in the published sampler."""
    half = window // 2
    if i <= half:
        return i
    if extent - i < half:
        return window - (extent - i)
    return half


@pytest.mark.parametrize(
    ("size", "window"), [((16, 16), (16, 16)), ((24, 40), (16, 16)), ((17, 16), (16, 16))]
)
def test_windows_lie_as_published(size, window):
    plan = plan_windows(size, window)
    sites = [(i, j) for i in range(size[0]) for j in range(size[1])]
    local = [
        (published_offset(i, size[0], window[0]), published_offset(j, size[1], window[1]))
        for i, j in sites
    ]
    corners = [(i - li, j - lj) for (i, j), (li, lj) in zip(sites, local, strict=True)]
    np.testing.assert_array_equal(np.stack([plan.top, plan.left], 1), corners)
    np.testing.assert_array_equal(plan.target, [li * window[1] + lj for li, lj in local])
    moved = [before != after for before, after in itertools.pairwise(corners)]
    assert plan.moved.tolist() == [True, *moved]
    if size == window:
        assert plan.moved.sum() == 1


@pytest.mark.parametrize("size", [(2, 8), (8, 3)])
def test_a_map_smaller_than_the_window(size):
    with pytest.raises(ValueError, match="smaller than the 4x4 that this prior was trained on"):
        plan_windows(size, (4, 4))
