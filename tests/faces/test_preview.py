"""Previews of faces."""

import numpy as np
import pytest

from codeformer_jax.faces.choose import Choice
from codeformer_jax.faces.face import TEMPLATE, Face
from codeformer_jax.faces.preview import draw_preview

GREEN, ORANGE = (40, 220, 90), (255, 140, 0)


def faces(height, width):
    """A chosen face in the middle and one left out at the top right corner."""
    side = min(height, width) / 4
    points = TEMPLATE * side / 512
    middle, corner = np.array([width, height]) / 2 - side / 2, np.array([width - side, -side / 2])
    return [
        Choice(n, Face((*low.tolist(), *(low + side).tolist()), points + low), reason)
        for n, low, reason in ((1, middle, None), (2, corner, "not the largest face"))
    ]


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((64, 48, 3), np.uint8, (800, 600)),
        ((1000, 900), np.uint8, (1000, 900)),
        ((1000, 900, 3), np.uint16, (1000, 900)),
        ((200, 6000), np.uint16, (67, 2000)),
        ((1, 3000, 3), np.uint8, (1, 2000)),
    ],
)
def test_sizes(shape, dtype, expected):
    preview = draw_preview(np.full(shape, np.iinfo(dtype).max, dtype), faces(*shape[:2]))
    assert preview.shape == (*expected, 3)
    assert preview.dtype == np.uint8


def test_boxes_lie_where_the_faces_are():
    picture = np.zeros((3000, 4000, 3), np.uint8)
    preview = draw_preview(picture, faces(3000, 4000))
    assert preview.shape == (1500, 2000, 3)
    green, orange = ((preview == colour).all(axis=-1) for colour in (GREEN, ORANGE))
    # The box spans 1125..1875 and 1625..2375 of the picture; its label lies above it.
    rows, columns = np.flatnonzero(green.any(axis=1)), np.flatnonzero(green.any(axis=0))
    assert 480 < rows.min() < 562
    assert abs(rows.max() - 937) <= 1
    assert abs(columns.min() - 812) <= 1
    assert abs(columns.max() - 1187) <= 1
    # The label of the face at the corner stays inside the picture.
    assert orange[:60, 1650:].sum() > 3000
    points = (preview == 255).all(axis=-1)
    for x, y in (faces(3000, 4000)[0].face.points / 2).round().astype(int):
        assert points[y, x]
    assert not picture.any()


def test_without_faces_only_the_size_changes():
    picture = np.random.default_rng(0).integers(0, 256, (900, 800, 3), np.uint8)
    np.testing.assert_array_equal(draw_preview(picture, []), picture)
