"""Faces given by hand."""

import json

import numpy as np
import pytest

from codeformer_jax.faces.detect import Detector
from codeformer_jax.faces.face import TEMPLATE, apply
from codeformer_jax.faces.manual import ManualDetector, parse_box

PICTURE = np.zeros((600, 800, 3), np.uint8)
POINTS = (TEMPLATE * 0.5 + 100).tolist()


def load(tmp_path, content):
    path = tmp_path / "boxes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return ManualDetector.load(path)


def test_a_box_gets_a_face_s_points():
    face = parse_box("100, 50,300,330.5")
    assert face.box == (100, 50, 300, 330.5)
    assert face.score == 1
    # The crop holds the box where a detector's faces have it.
    corners = apply(face.transform, np.array([(100, 50), (300, 330.5)]))
    np.testing.assert_allclose(corners, [(122, 97), (390, 470)], atol=8)


def test_points_get_a_box(tmp_path):
    (face,) = load(tmp_path, [{"points": POINTS}])(PICTURE)
    np.testing.assert_array_equal(face.points, POINTS)
    np.testing.assert_allclose(face.box, [161, 148.5, 295, 335], atol=1)


@pytest.mark.parametrize(
    ("content", "name", "count"),
    [
        ([], "", 0),
        ([{"box": [0, 0, 50, 60]}, {"points": POINTS}], "any.png", 2),
        ({"a.png": [{"box": [0, 0, 50, 60]}], "b.png": []}, "a.png", 1),
        ({"a.png": [{"box": [0, 0, 50, 60]}], "b.png": []}, "b.png", 0),
        ({"a.png": [{"box": [0, 0, 50, 60]}], "b.png": []}, "c.png", 0),
        ({"a.png": [{"box": [0, 0, 50, 60]}]}, "", 1),
        # As `restore` writes it.
        ({"input": "a.png", "faces": [{"number": 1, "box": [0, 0, 50, 60]}]}, "a.png", 1),
        ({"input": "a.png", "faces": [{"number": 1, "box": [0, 0, 50, 60]}]}, "b.png", 0),
        ({"faces": [{"box": [0, 0, 50, 60], "points": POINTS}]}, "b.png", 1),
    ],
)
def test_files(tmp_path, content, name, count):
    detector = load(tmp_path, content)
    assert isinstance(detector, Detector)
    assert len(detector(PICTURE, name)) == count
    assert detector.describe()["name"] == "manual"
    assert len(detector.describe()["sha256"]) == 64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "boxes.json is not a JSON file: "),
        ("3", "boxes.json: expected a list of faces, got 3"),
        ({"a.png": {"box": [0, 0, 5, 5]}}, "boxes.json, a.png: expected a list of faces, got {"),
        ([[0, 0, 5, 5]], r"boxes.json, face 1: expected {\"box\": .*, got \[0, 0, 5, 5\]"),
        ([{"points": POINTS}, {"score": 1}], r"boxes.json, face 2: expected {\"box\""),
        ([{"box": None}], r"boxes.json, face 1: expected {\"box\""),
        ([{"box": [1, 2, 3]}], r"face 1: expected four numbers .*, got \[1, 2, 3\]"),
        ([{"box": [1, 2, 3, "x"]}], "face 1: expected four numbers left,top,right,bottom, got"),
        ([{"box": [30, 0, 20, 9]}], "face 1: expected left < right .* got 30,0,20,9"),
        ([{"points": POINTS[:4]}], 'face 1: expected "points" of five'),
        ([{"points": [[1, 1]] * 5}], "face 1: no similarity maps the points"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, content)


def test_other_errors(tmp_path):
    with pytest.raises(ValueError, match=r"--boxes cannot be read: .*none.json"):
        ManualDetector.load(tmp_path / "none.json")
    with pytest.raises(ValueError, match="--box 1,2,three: expected four numbers"):
        parse_box("1,2,three")
    with pytest.raises(ValueError, match="--box 1,2,3: expected four numbers"):
        ManualDetector.load(None, ["1,2,3"])
    detector = ManualDetector.load(None, ["0,0,50,50", "900,0,950,50"])
    with pytest.raises(ValueError, match=r"the given box 900,0,950,50 is outside the 800 x"):
        detector(PICTURE, "a.png")


def test_a_file_names_pictures_by_the_end_of_their_path(tmp_path):
    path = tmp_path / "boxes.json"
    faces = {"a/p.png": [{"box": [0, 0, 10, 10]}], "p.png": [{"box": [5, 5, 20, 20]}]}
    path.write_text(json.dumps(faces))
    find, picture = ManualDetector.load(path), np.zeros((40, 40, 3), np.uint8)
    boxes = {name: find(picture, name) for name in ("in/a/p.png", "in/b/p.png", "in/q.png")}
    assert [face.box[0] for face in boxes["in/a/p.png"]] == [0]
    assert [face.box[0] for face in boxes["in/b/p.png"]] == [5]
    assert boxes["in/q.png"] == []
