"""Strokes against OpenCV's thick lines; what random strokes look like."""

import itertools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.ops.masks import random_stroke, stroke_masks

SIZE = 96


def opencv(points, width):
    """Thick lines with round joints, drawn with a sixteenth of a pixel's precision."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    for corners, thickness in zip(points, width, strict=True):
        if thickness < 0:
            continue
        for start, end in itertools.pairwise(corners):
            ends = [tuple(round(v * 16) for v in p) for p in (start, end)]
            if ends[0] != ends[1]:
                cv2.line(mask, *ends, 1, round(float(thickness)), cv2.LINE_8, 4)
        for corner in corners:
            centre = tuple(round(v * 16) for v in corner)
            cv2.circle(mask, centre, round(thickness * 8), 1, -1, cv2.LINE_8, 4)
    return mask


def strokes(count, seed=0, corners=6):
    keys = jax.random.split(jax.random.key(seed), count)
    length, turn = jnp.asarray([5.0, 40.0]), jnp.asarray([0.8, 1.6])

    def draw(key):
        return random_stroke(key, jnp.float32(corners), length, turn, SIZE, 8)

    return jax.vmap(draw)(keys)


@pytest.mark.parametrize("form", ["plain", "jit", "vmap"])
def test_masks_are_opencvs(form):
    points = strokes(12).reshape(4, 3, 8, 2)
    width = jnp.asarray([[4.0, 9.0, 15.0]] * 3 + [[-1.0, 8.0, -1.0]])

    def render(p, w):
        return stroke_masks(p, w, (SIZE, SIZE))

    if form == "vmap":
        masks = jax.vmap(render)(points[:, None], width[:, None])[:, 0]
    else:
        masks = (jax.jit(render) if form == "jit" else render)(points, width)
    assert masks.shape == (4, SIZE, SIZE, 1)
    assert set(np.unique(masks)) == {0, 1}
    for ours, corners, thickness in zip(masks[..., 0] > 0, points, width, strict=True):
        expected = opencv(np.asarray(corners), np.asarray(thickness)) > 0
        # OpenCV's own edge is ragged by a pixel.
        assert (ours & expected).sum() / (ours | expected).sum() > 0.85
        grown = cv2.dilate(expected.astype(np.uint8), np.ones((3, 3))) > 0
        shrunk = cv2.erode(expected.astype(np.uint8), np.ones((3, 3))) > 0
        assert not np.any(ours & ~grown)
        assert np.sum(shrunk & ~ours) <= 8


def test_a_disk_has_its_area():
    points = jnp.full((1, 1, 4, 2), 48.0)
    area = float(stroke_masks(points, jnp.asarray([[30.0]]), (SIZE, SIZE)).sum())
    assert abs(area - np.pi * 15**2) < 0.01 * area


def test_strokes_that_are_not_there_paint_nothing():
    masks = stroke_masks(strokes(6).reshape(2, 3, 8, 2), jnp.full((2, 3), -1.0), (SIZE, SIZE))
    assert not masks.any()


@pytest.mark.parametrize("corners", [2, 5, 8])
def test_random_strokes_keep_to_the_picture_and_their_corners(corners):
    points = np.asarray(strokes(400, seed=corners, corners=corners))
    assert points.min() >= 0
    assert points.max() <= SIZE - 1
    steps = np.linalg.norm(np.diff(points, axis=1), axis=-1)
    assert np.all(steps[:, corners - 1 :] == 0)
    assert steps[:, : corners - 1].max() <= 40 + 1e-3
    inside = np.all((points > 0) & (points < SIZE - 1), axis=-1)
    free = steps[:, : corners - 1][(inside[:, 1:] & inside[:, :-1])[:, : corners - 1]]
    assert free.min() >= 5 - 1e-3
    # Starts lie evenly over the picture, first pieces in every direction.
    assert np.abs(points[:, 0].mean(0) / (SIZE - 1) - 0.5).max() < 0.06
    directions = points[:, 1] - points[:, 0]
    assert np.abs(np.sign(directions).mean(0)).max() < 0.15
