"""Pictures and codes in a bucket: the same examples as on disk, in few requests."""

import contextlib
import io

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from codeformer_jax.data.examples import listing_digest
from codeformer_jax.data.folder import ImageFolder
from codeformer_jax.data.images import UnreadableImage, image_size, read_image, write_image
from codeformer_jax.data.photos import PhotoFile, read_photo, write_photo
from codeformer_jax.data.pipeline import batches
from codeformer_jax.data.precomputed_codes import Codes, CodesError, Description, write_codes
from codeformer_jax.data.sources import open_source
from codeformer_jax.prepare.build import prepare
from codeformer_jax.system import storage
from codeformer_jax.system.atomic import atomic_directory
from codeformer_jax.system.storage import to_path

ABOUT = Description("abc", "faces", "digest", 4, (2, 3), 1000, 10)


def pixels(seed, size=24):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3)).astype(np.uint8)


@pytest.fixture
def pair(tmp_path, bucket):
    """Two folders of the same pictures: on disk, and in a bucket."""
    for number in range(8):
        write_image(tmp_path / "a" / f"{number}.png", pixels(number))
    write_image(tmp_path / "b" / ".hidden" / "x.png", pixels(8))
    write_image(tmp_path / "é.jpg", pixels(9))
    write_image(tmp_path / "small.png", pixels(10, 4))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    remote = to_path(bucket)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            (remote / path.relative_to(tmp_path)).write_bytes(path.read_bytes())
    return tmp_path, remote


def test_a_folder_is_the_same_as_on_disk(pair, object_store):
    local, remote = (ImageFolder(folder, 16, "all") for folder in pair)
    assert remote.names == local.names
    assert remote.skipped.keys() == local.skipped.keys() == {"small.png", "empty.png"}
    for index in range(len(local)):
        np.testing.assert_array_equal(remote[index]["image"], local[index]["image"])
    object_store.requests.clear()
    assert listing_digest(remote) == listing_digest(local)
    assert len(object_store.requests) <= 2


def test_a_header_is_read_without_the_rest(bucket, object_store):
    path = to_path(bucket) / "large.png"
    write_image(path, pixels(0, 400))
    object_store.requests.clear()
    assert image_size(path) == (400, 400)
    assert len(object_store.requests) == 1
    tail = io.BytesIO()  # The header of a TIFF comes last.
    Image.fromarray(pixels(0, 200)).save(tail, "TIFF")
    (to_path(bucket) / "x.tif").write_bytes(tail.getvalue())
    assert image_size(f"{bucket}/x.tif") == (200, 200)


def test_names_are_no_patterns(bucket, object_store):
    names = ["a1.png", "a[1].png", "b*.png", "h#1.png", "p%20 q.png", "q?.png", "x&y=+:.png"]
    for number, name in enumerate(names):
        write_image(f"{bucket}/{name}", np.full((20, 20, 3), number, np.uint8))
    folder = ImageFolder(bucket, 16, "all")
    assert folder.names == tuple(names)
    assert [folder[i]["image"][0, 0, 0] for i in range(len(names))] == [*range(len(names))]
    for name in ("a[1].png", "b*.png", "q?.png"):
        storage.remove(to_path(bucket) / name)
        names.remove(name)
        assert object_store.names(bucket) == names


@pytest.mark.parametrize("prefix", ["", "folder:", "1 * "])
def test_a_worker_process_reads_the_same_batches(pair, prefix):
    streams = [
        batches(open_source(ConfigDict({"path": path, "image_size": 16}), "train"), **options)
        for path, options in (
            (f"{pair[0]}", {"batch_size": 2, "seed": 0}),
            (f"{prefix}{pair[1]}", {"batch_size": 2, "seed": 0, "workers": int(not prefix)}),
        )
    ]
    with contextlib.closing(streams[0]), contextlib.closing(streams[1]):
        for _ in range(3):
            local, remote = map(next, streams)
            np.testing.assert_array_equal(local["image"], remote["image"])


def test_a_bucket_that_fails_is_not_a_bad_picture(pair, object_store, monkeypatch):
    folder = ImageFolder(pair[1], 16, "all")
    monkeypatch.setattr("gcsfs.retry.asyncio.sleep", _no_wait)
    object_store.fail("busy", times=1000, matching="GET")
    with pytest.raises(OSError, match=r"gs://.*0.png cannot be read: HttpError 503"):
        folder[0]
    object_store.faults.clear()
    with pytest.raises(UnreadableImage, match="no such file"):
        read_image(pair[1] / "none.png")


async def _no_wait(_seconds):
    pass


def test_a_missing_folder_is_named(bucket):
    with pytest.raises(FileNotFoundError, match=f"no image folder '{bucket}'"):
        ImageFolder(bucket, 16)


def test_photographs_are_written_and_read(bucket):
    photo = PhotoFile(pixels(0))
    assert write_photo(f"{bucket}/sub/photo.png", photo, "note") == ()
    np.testing.assert_array_equal(read_photo(f"{bucket}/sub/photo.png").pixels, photo.pixels)


def test_codes_are_written_and_read(bucket):
    codes = np.random.default_rng(0).integers(0, 1000, (10, 2, 6)).astype(np.int32)
    with atomic_directory(bucket, marker="codes.json") as folder:
        write_codes(folder, ABOUT, [codes])
    found = Codes(bucket)
    np.testing.assert_array_equal([found[i] for i in range(10)], codes)
    array = to_path(bucket) / "codes.npy"
    array.write_bytes(array.read_bytes()[:-1] + b"\7")
    with pytest.raises(CodesError, match="not as it was written"):
        Codes(bucket)
    array.unlink()
    with pytest.raises(CodesError, match="missing"):
        Codes(bucket)
    (to_path(bucket) / "codes.json").unlink()
    with pytest.raises(FileNotFoundError, match="no codes in 'gs://"):
        Codes(bucket)


@pytest.mark.parametrize("source", ["tfds:s3://bkt/faces[train]", "array_record:s3://bkt/*.rec"])
def test_records_in_other_buckets_are_refused(source):
    with pytest.raises(ValueError, match="ArrayRecord reads local disks and gs:// only"):
        open_source(ConfigDict({"path": source, "image_size": 16}), "train")


@pytest.mark.parametrize("kind", ["tfds:{}/set", "tfds:{}/set[train]", "array_record:{}/set/*rec*"])
def test_records_are_those_on_disk(bucket, object_store, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", object_store.url)  # Of ArrayRecord.
    for number in range(9):
        write_image(tmp_path / "faces" / f"{number}.png", pixels(number))
    prepare([tmp_path / "faces"], tmp_path / "set", size=16, validation_fraction=0.3, workers=0)
    for path in (tmp_path / "set").iterdir():
        (to_path(bucket) / "set" / path.name).write_bytes(path.read_bytes())
    local, remote = (
        open_source(ConfigDict({"path": kind.format(root), "image_size": 16}), "train")
        for root in (tmp_path, bucket)
    )
    assert listing_digest(remote) == listing_digest(local)
    streams = [
        batches(local, batch_size=2, seed=0),
        batches(remote, batch_size=2, seed=0, workers=int("[" in kind)),
    ]
    with contextlib.closing(streams[0]), contextlib.closing(streams[1]):
        for _ in range(3):
            a, b = map(next, streams)
            np.testing.assert_array_equal(a["image"], b["image"])
    shard = next(name for name in object_store.names(bucket) if "train.array" in name)
    (to_path(bucket) / shard).unlink()
    if kind.startswith("tfds"):
        with pytest.raises(FileNotFoundError, match=f"its file '{bucket}/{shard}' is missing"):
            open_source(ConfigDict({"path": kind.format(bucket), "image_size": 16}), "train")
