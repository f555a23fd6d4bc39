"""Records of restored photographs: strict JSON from which the faces can be found again."""

import hashlib
import json
import math
import pathlib

import numpy as np
import pytest

from codeformer_jax.faces.face import TEMPLATE, Face, apply, invert
from codeformer_jax.faces.manual import ManualDetector
from codeformer_jax.restore.provenance import FaceRecord, photo_record, write_record
from codeformer_jax.system.hashes import file_sha256

# A face turned by 0.3 rad, 9000 px from the corner of a large picture; 0.4 template px per px.
TRANSFORM = np.array([[0.4 * math.cos(0.3), -0.4 * math.sin(0.3), -3000.0], [0, 0, -3600.0]])
TRANSFORM[1, :2] = -TRANSFORM[0, 1], TRANSFORM[0, 0]
POINTS = apply(invert(TRANSFORM), TEMPLATE)


def face(score=0.987654321):
    left, top = POINTS.min(0) - 100.123
    right, bottom = POINTS.max(0) + 100.123
    return Face((float(left), float(top), float(right), float(bottom)), POINTS, score)


def record_of(folder, faces, **changes):
    (folder / "in.jpg").write_bytes(b"a photograph")
    given = {
        "settings": {"w": 0.5, "faces": "all", "parsing": None},
        "detector": {"name": "yunet", "threshold": np.float32(0.5), "sha256": "12"},
        "notes": ("a note",),
    }
    return photo_record(
        source=folder / "in.jpg", result=folder / "out" / "in.png", faces=faces, **given | changes
    )


def written(folder, record):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    write_record(folder / "in.json", record)
    return json.loads((folder / "in.json").read_text("utf-8"), parse_constant=refuse)


def test_a_record_says_what_was_done(tmp_path):
    restored = FaceRecord(1, face(), "restored", 512, 0.61234567, 0.98765)
    faces = [restored, FaceRecord(2, face(), "too small")]
    found = written(tmp_path, record_of(tmp_path, faces))
    assert list(found) == [
        *("input", "input_sha256", "result", "settings", "detector", "notes", "faces")
    ]
    assert found["input"] == "in.jpg"
    assert found["input_sha256"] == hashlib.sha256(b"a photograph").hexdigest()
    assert found["result"] == "in.png"
    assert found["settings"] == {"w": 0.5, "faces": "all", "parsing": None}
    assert found["detector"] == {"name": "yunet", "threshold": 0.5, "sha256": "12"}
    assert found["notes"] == ["a note"]
    first, second = found["faces"]
    assert (first["number"], first["done"]) == (1, "restored")
    assert (first["score"], first["identity"]) == (0.9877, 0.6123)
    assert (first["sharpness"], second["sharpness"]) == (0.9877, None)
    assert first["enlargement"] == pytest.approx(0.4, abs=1e-4)
    assert first["size"] == pytest.approx(face().size, abs=0.05)
    assert (second["number"], second["done"]) == (2, "too small")
    assert second["enlargement"] is None
    assert second["identity"] is None


def test_faces_can_be_found_again(tmp_path):
    (found,) = written(tmp_path, record_of(tmp_path, [FaceRecord(1, face(), "restored", 256)]))[
        "faces"
    ]
    assert len(json.dumps(found["points"])) < 110
    again = Face(tuple(found["box"]), np.array(found["points"]))
    np.testing.assert_allclose(again.points, POINTS, atol=0.005001)
    np.testing.assert_allclose(again.box, face().box, atol=0.005001)
    assert found["enlargement"] == pytest.approx(0.2, abs=1e-4)
    # Where the template's points come from, in pixels of the picture.
    for transform in (again.transform, np.array(found["transform"])):
        np.testing.assert_allclose(apply(invert(transform), TEMPLATE), POINTS, atol=0.02)


def test_a_record_gives_the_faces_of_its_input_back(tmp_path):
    written(tmp_path, record_of(tmp_path, [FaceRecord(1, face(), "too small")]))
    manual = ManualDetector.load(tmp_path / "in.json")
    picture = np.broadcast_to(np.uint8(0), (8000, 12000, 3))
    (found,) = manual(picture, "in.jpg")
    np.testing.assert_allclose(found.points, POINTS, atol=0.005001)
    np.testing.assert_allclose(found.box, face().box, atol=0.005001)
    assert manual(picture, "another.jpg") == []


@pytest.mark.parametrize("faces", [0, 1, 3])
def test_there_is_a_line_for_each_face(tmp_path, faces):
    records = [FaceRecord(number, face(), "restored", 512) for number in range(faces)]
    assert len(written(tmp_path, record_of(tmp_path, records))["faces"]) == faces
    lines = (tmp_path / "in.json").read_text().splitlines()
    assert sum('"points"' in line for line in lines) == faces
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


def test_values_that_json_does_not_have(tmp_path):
    settings = {"w": np.float64(0.5), "n": np.int64(3), "path": pathlib.Path("a", "b"), "å": (1, 2)}
    record = record_of(
        tmp_path, [FaceRecord(1, face(), "restored", 512, math.nan)], settings=settings
    )
    found = written(tmp_path, record)
    assert found["settings"] == {"w": 0.5, "n": 3, "path": str(pathlib.Path("a", "b")), "å": [1, 2]}
    assert found["faces"][0]["identity"] is None


def test_a_failed_write_keeps_the_previous_record(tmp_path):
    record = written(tmp_path, record_of(tmp_path, []))
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_record(tmp_path / "in.json", record | {"settings": object()})
    assert json.loads((tmp_path / "in.json").read_text()) == record


def test_file_sha256(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(data)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()
