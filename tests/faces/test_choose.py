"""Choice of faces."""

import numpy as np
import pytest

from codeformer_jax.faces import choose as module_under_test
from codeformer_jax.faces.choose import check_which
from codeformer_jax.faces.face import TEMPLATE, Face

SHAPE = (600, 1000)


def face(left, top, size, score=0.9):
    """A face in a square box; its eyes are a quarter of the size apart."""
    points = (TEMPLATE - TEMPLATE[0]) * (size / 4 / 125.921) + np.array([left, top])
    return Face((left, top, left + size, top + size), points, score)


def choose(faces, which="all", min_size=10.0, max_faces=100):
    return module_under_test.choose(faces, SHAPE, which, min_size=min_size, max_faces=max_faces)


LARGE = face(20.0, 10.0, 300.0, 0.8)
MIDDLE = face(450.0, 255.0, 100.0, 0.95)
OTHER = face(800.0, 300.0, 80.0, 0.9)
TINY = face(488.0, 288.0, 24.0, 0.99)
FACES = [TINY, MIDDLE, LARGE, OTHER]  # Numbered LARGE, MIDDLE, OTHER, TINY.


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ({}, [1, 2, 3]),
        ({"min_size": 5.0}, [1, 2, 3, 4]),
        ({"min_size": 21.0}, [1, 2]),
        ({"min_size": 100.0}, []),
        ({"which": "largest"}, [1]),
        ({"which": "center"}, [2]),
        ({"which": "center", "min_size": 0.0}, [4]),
        ({"which": "largest", "min_size": 100.0}, []),
        ({"which": "2"}, [2]),
        ({"which": "3, 1"}, [1, 3]),
        ({"which": "4"}, [4]),  # A number overrides min_size.
        ({"max_faces": 2}, [2, 3]),
        ({"max_faces": 1}, [2]),
        ({"max_faces": 1, "which": "1,3"}, [3]),
    ],
)
def test_choices(options, chosen):
    choices = choose(FACES, **options)
    assert [choice.number for choice in choices] == [1, 2, 3, 4]
    assert [choice.face for choice in choices] == [LARGE, MIDDLE, OTHER, TINY]
    assert [choice.number for choice in choices if choice.reason is None] == chosen


@pytest.mark.parametrize(
    ("options", "number", "skipped", "reason"),
    [
        ({}, 1, "", None),
        ({}, 4, "small", "its eyes are 6.0 px apart, less than min_size 10"),
        ({"max_faces": 2}, 1, "beyond_max", "max_faces is 2, and others have better scores"),
        ({"which": "largest"}, 2, "unchosen", "not the largest face"),
        ({"which": "center"}, 1, "unchosen", "not the center face"),
        ({"which": "1"}, 3, "unchosen", "not chosen"),
    ],
)
def test_reasons(options, number, skipped, reason):
    choice = choose(FACES, **options)[number - 1]
    assert (choice.skipped, choice.reason) == (skipped, reason)


def test_numbers_do_not_depend_on_the_order():
    twins = [face(600.0, 0.0, 50.0), face(100.0, 0.0, 50.0), face(100.0, 200.0, 50.0)]
    for order in (twins, twins[::-1]):
        assert [c.face for c in choose(order)] == [twins[1], twins[2], twins[0]]


def test_no_faces():
    for which in ("all", "largest", "center"):
        assert choose([], which) == ()


@pytest.mark.parametrize(
    ("faces", "which", "message"),
    [
        (FACES, "5", "faces is '5', but there is no face 5; the picture has faces 1 to 4"),
        ([LARGE], "2", "no face 2; 1 found"),
        ([], "1", "no face 1; 0 found"),
    ],
)
def test_numbers_without_a_face(faces, which, message):
    check_which(which)
    with pytest.raises(ValueError, match=message):
        choose(faces, which)


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("left", "faces is 'left'; expected all, largest, center or numbers"),
        ("", "faces is ''; expected all"),
        ("1,,2", "expected all, largest, center or numbers such as 1,3"),
        ("1,0", "faces is '1,0', but numbers begin at 1; expected all"),
    ],
)
def test_choices_for_no_picture(which, message):
    with pytest.raises(ValueError, match=message):
        check_which(which)
    with pytest.raises(ValueError, match=message):
        choose(FACES, which)
