"""Faces and the similarity to the template."""

import pathlib

import numpy as np
import pytest

from codeformer_jax.faces.face import TEMPLATE, Face, apply, fit_similarity, invert, to_size

FIXTURE = pathlib.Path(__file__).parents[1] / "parity" / "alignment_0.npz"


def test_alignment_is_opencvs():
    with np.load(FIXTURE) as expected:
        for points, affine, inverse in zip(
            expected["landmarks"], expected["affine"], expected["inverse"], strict=True
        ):
            transform = fit_similarity(points)
            corners = np.array([[0.0, 0], [900, 0], [0, 700], [900, 700]])
            assert np.abs(apply(transform, corners) - apply(affine, corners)).max() < 1e-3
            assert (
                np.abs(apply(invert(transform), TEMPLATE) - apply(inverse, TEMPLATE)).max() < 1e-3
            )


def test_one_wrong_point_moves_nothing():
    points = TEMPLATE * 0.5 + 30
    points[3] += 60
    assert np.abs(fit_similarity(points) @ [180.0, 150, 1] - [300, 240]).max() < 1e-6


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.full((5, 2), np.nan)])
def test_points_that_show_no_face_are_refused(points):
    with pytest.raises(ValueError, match="no similarity"):
        fit_similarity(points)


def test_another_size_covers_the_same_area():
    face = Face((0.0, 0.0, 10.0, 10.0), TEMPLATE)
    corners = np.array([[-0.5, -0.5], [511.5, 511.5]])
    small = apply(to_size(face.transform, 64), corners)
    assert np.abs(small - [[-0.5, -0.5], [63.5, 63.5]]).max() < 1e-6
    assert face.crop_scale == pytest.approx(1)
    assert face.size == 10
    assert face.centre == (5.0, 5.0)
