"""Suppression of overlapping boxes."""

import numpy as np
import pytest

from codeformer_jax.faces.suppression import suppress

SQUARE = (0.0, 0.0, 10.0, 10.0)


@pytest.mark.parametrize(
    ("boxes", "scores", "kept"),
    [
        ([], [], []),
        ([SQUARE], [0.9], [0]),
        ([SQUARE, (20, 0, 30, 10)], [0.8, 0.9], [1, 0]),
        ([SQUARE, (1, 0, 11, 10)], [0.8, 0.9], [1]),
        # A third of the union: at the threshold both stay.
        ([SQUARE, (5, 0, 15, 10)], [0.9, 0.8], [0, 1]),
        ([SQUARE, (4.9, 0, 14.9, 10)], [0.9, 0.8], [0]),
        # The first drops the second, which no longer drops the third.
        ([SQUARE, (4, 0, 14, 10), (8, 0, 18, 10)], [0.9, 0.8, 0.7], [0, 2]),
        ([SQUARE, SQUARE], [0.9, 0.9], [0]),
        ([(5, 5, 5, 9), SQUARE], [0.9, 0.8], [0, 1]),  # A box without area overlaps nothing.
    ],
)
def test_keeps_the_best_of_each_group(boxes, scores, kept):
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    assert suppress(boxes, np.array(scores, np.float64), 1 / 3).tolist() == kept
