"""Pictures in a bucket, restored into a bucket."""

import json

import numpy as np
import pytest

from codeformer_jax import restore
from codeformer_jax.data.images import read_image, write_image
from codeformer_jax.faces.manual import ManualDetector
from codeformer_jax.restore import PhotoOptions, RestoreError, RestoreOptions, Restorer
from codeformer_jax.system.hashes import file_sha256
from codeformer_jax.system.storage import to_path

NAMES = ("a.png", "deep/b c.jpg", "deep/ü.webp")
RESULTS = ["a.png", "deep/b c.png", "deep/ü.png"]


@pytest.fixture
def faces(bucket, picture):
    for number, name in enumerate(NAMES):
        write_image(f"{bucket}/faces/{name}", picture(40, 40, number))
    (to_path(bucket) / "faces" / "notes.txt").write_text("no picture")
    (to_path(bucket) / "faces" / ".hidden.png").write_bytes(b"")
    return f"{bucket}/faces"


@pytest.mark.parametrize("into", ["bucket", "disk"])
def test_a_folder_of_faces(faces, bucket, tmp_path, restorer, into):
    output = f"{bucket}/out" if into == "bucket" else tmp_path
    summary = restore.restore_files([faces], output, restorer=restorer)
    assert [str(path) for path in summary.written] == [f"{output}/{name}" for name in RESULTS]
    assert [str(path) for path in summary.others] == [f"{faces}/notes.txt"]
    assert summary.failed == summary.skipped == ()
    for source, result in zip(NAMES, summary.written, strict=True):
        expected = restorer(read_image(f"{faces}/{source}").pixels)
        assert np.abs(read_image(result).pixels.astype(int) - expected).max() <= 1


def test_existing_results_stay(faces, bucket, object_store, restorer):
    output = f"{bucket}/out"
    (to_path(output) / "a.png").write_bytes(b"mine")
    with pytest.raises(RestoreError, match=rf"1 of 3 files exist already:\n  {output}/a.png"):
        restore.restore_files([faces], output, restorer=restorer)
    options = RestoreOptions(skip_existing=True)
    summary = restore.restore_files([faces], output, options, restorer=restorer)
    assert [str(path) for path in summary.skipped] == [f"{output}/a.png"]
    assert object_store.names(output) == RESULTS
    assert object_store.read(f"{output}/a.png") == b"mine"
    restore.restore_files([faces], output, RestoreOptions(force=True), restorer=restorer)
    assert object_store.read(f"{output}/a.png") != b"mine"


def test_inputs_are_never_replaced(faces, bucket, restorer):
    with pytest.raises(RestoreError, match=r"the output folder 'gs://.*' is an input folder"):
        restore.restore_files([faces], faces, restorer=restorer)
    with pytest.raises(RestoreError, match="would replace the input"):
        restore.restore_files([f"{faces}/a.png"], faces, restorer=restorer)
    with pytest.raises(RestoreError, match=r"gs://.*/none.png: no such file or folder"):
        restore.restore_files([f"{bucket}/none.png"], f"{bucket}/out", restorer=restorer)
    inside = restore.restore_files([faces], f"{faces}/deep/out", restorer=restorer)
    again = restore.restore_files(
        [faces], f"{faces}/deep/out", RestoreOptions(force=True), restorer=restorer
    )
    assert again.written == inside.written


def test_a_bucket_that_fails_costs_one_picture(faces, bucket, object_store, restorer, monkeypatch):
    async def at_once(_seconds):
        pass

    monkeypatch.setattr("gcsfs.retry.asyncio.sleep", at_once)
    object_store.fail("busy", times=1000, matching="GET .*a.png")
    summary = restore.restore_files([faces], f"{bucket}/out", restorer=restorer)
    object_store.faults.clear()
    assert object_store.names(f"{bucket}/out") == RESULTS[1:]
    (failure,) = summary.failed
    assert "a.png cannot be read: HttpError 503" in failure.reason


def test_a_photograph_with_model_and_boxes(bucket, model_file, picture, object_store):
    network, boxes, photo = (f"{bucket}/{n}" for n in ("m.safetensors", "boxes.json", "group.png"))
    to_path(network).write_bytes(model_file.read_bytes())
    to_path(boxes).write_text(json.dumps({"group.png": [{"box": [20, 20, 60, 70]}]}))
    write_image(photo, picture(90, 120))
    assert ManualDetector.load(boxes).source["file"] == "boxes.json"
    options = PhotoOptions(boxes=boxes, aligned="no")
    restorer = Restorer.load(network)
    restore.restore_files([photo], f"{bucket}/out", photo=options, restorer=restorer)
    assert object_store.names(f"{bucket}/out") == ["group.json", "group.png"]
    record = json.loads(object_store.read(f"{bucket}/out/group.json"))
    assert record["input_sha256"] == file_sha256(photo)
    assert [face["done"] for face in record["faces"]] == ["restored"]
