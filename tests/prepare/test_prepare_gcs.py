"""A dataset from and in a bucket of Google Cloud Storage."""

import pytest
from prepare.support import fill, read_all, tree_hash

from codeformer_jax.prepare import build, build_plan
from codeformer_jax.system import storage


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_it_has_the_same_bytes_as_on_disk(room, bucket, object_store, tmp_path, workers):
    fill(room.faces, 12)
    (room.faces / "b").mkdir()
    (room.faces / "b" / "same.png").write_bytes((room.faces / "003.png").read_bytes())
    (room.faces / "notes.txt").write_text("no picture")
    room.prepare()
    for path in storage.files(room.faces):
        name = path.relative_to(room.faces).as_posix()
        (storage.to_path(bucket) / "faces" / name).write_bytes(path.read_bytes())
    out = f"{bucket}/out"
    options = {"size": 16, "workers": workers}
    summary = build.prepare([f"{bucket}/faces"], out, **options)
    assert sum(summary.splits.values()) == 12
    made = tmp_path / "made"
    made.mkdir()
    for name in object_store.names(out):
        (made / name).write_bytes(object_store.read(f"{out}/{name}"))
    assert len(read_all(made)) == 12
    assert tree_hash(made) == tree_hash(room.out)
    assert object_store.names(f"{out}.partial") == []
    with pytest.raises(FileExistsError, match=f"{out}' exists"):
        build.prepare([f"{bucket}/faces"], out, **options)
    build.prepare([f"{bucket}/faces"], out, **options, force=True)
    with pytest.raises(build.PrepareError, match="lie within each other"):
        build.prepare([f"{bucket}/faces"], f"{bucket}/faces/out", **options)
    with pytest.raises(build.PrepareError, match=r"has \*, \? or \["):
        build.prepare([f"{bucket}/faces"], f"{bucket}/set[1]", **options)


def test_a_folder_that_cannot_be_listed_is_not_left_out(bucket, object_store, monkeypatch):
    root = storage.to_path(bucket)
    for name in ("1.png", "b/2.png"):
        (root / name).write_bytes(b"")
    assert [name for name, _ in build_plan._versions(bucket)] == ["1.png", "b/2.png"]
    monkeypatch.setattr(storage.filesystem(root), "requests_timeout", 0.2)
    fault = object_store.fail("slow", times=1000, matching="prefix=", seconds=1)
    with pytest.raises(TimeoutError):
        list(build_plan._versions(bucket))
    assert fault.met
