"""ArrayRecord and TFDS sources: contents, splits, copies for processes, damaged files."""

import os
import pathlib
import pickle
import tracemalloc
from concurrent import futures

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from recorded import OFFLINE, encoded, example, file_limit, noise, write_records, write_tfds

from codeformer_jax.data import records as records_module
from codeformer_jax.data.folder import in_split
from codeformer_jax.data.images import read_image
from codeformer_jax.data.records import (
    Records,
    Shard,
    UnreadableRecord,
    open_array_record,
    open_tfds,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_tfds(tmp_path_factory.mktemp("tfds"), {"train": 10, "test": 3})


def write(folder, name, records):
    folder.mkdir(parents=True, exist_ok=True)
    write_records(folder / name, records)
    return f"{folder}/*.array_record"


def contents(source):
    return {source[i]["name"]: source[i]["image"] for i in range(len(source))}


def test_the_same_examples_as_tfds(dataset):
    plain = tfds.builder_from_directory(dataset).as_data_source("train")
    source = open_tfds(dataset, 8, "train")
    assert len(source) == len(plain) == 10
    for index in range(10):
        found = source[index]
        assert found["index"] == index
        assert found["name"] == plain[index]["name"].decode()
        np.testing.assert_array_equal(found["image"], plain[index]["image"])
        np.testing.assert_array_equal(found["image"], noise(int(found["name"][:3])))


def test_splits_of_tfds(dataset):
    everything = list(contents(open_tfds(dataset, 8, "train")))
    assert list(contents(open_tfds(dataset, 8, "train", "train[3:7]"))) == everything[3:7]
    assert list(contents(open_tfds(dataset, 8, "train", "train[80%:]"))) == everything[8:]
    assert len(open_tfds(dataset, 8, "train", "train[9:]+test")) == 4
    assert len(open_tfds(dataset, 8, "heldout")) == 3
    assert len(open_tfds(dataset, 8, "train", "all")) == 13
    assert len(open_tfds(dataset, 8, "heldout", "train[:50%]")) == 3
    assert len(open_tfds(dataset, 8, "eval", "train[:50%]")) == 5
    with pytest.raises(ValueError, match=r"for 'heldout' \(unused splits: none\)"):
        open_tfds(dataset, 8, "heldout", "all[:50%]")


def test_pictures_of_another_size_are_cropped_and_resized(dataset):
    assert open_tfds(dataset, 4, "train")[0]["image"].shape == (4, 4, 3)
    assert open_tfds(dataset, 16, "train")[0]["image"].shape == (16, 16, 3)
    with pytest.raises(UnreadableRecord, match=r"too small: 8x8 pixels \(w x h\), min_size=9"):
        open_tfds(dataset, 18, "train")[0]
    assert open_tfds(dataset, 18, "train", min_size=8)[0]["image"].shape == (18, 18, 3)


def test_records_that_are_images_or_examples(tmp_path):
    pattern = write(tmp_path, "a.array_record", [encoded(noise(0)), example(encoded(noise(1)))])
    write(tmp_path, "b.array_record", [example(encoded(noise(2), "WEBP", lossless=True), "ü 2")])
    source = open_array_record(pattern, 8, "all")
    found = contents(source)
    assert list(found) == ["a.array_record:0", "a.array_record:1", "ü 2"]
    for seed, image in enumerate(found.values()):
        np.testing.assert_array_equal(image, noise(seed))
        assert image.dtype == np.uint8
    assert len(open_array_record(f"{tmp_path}/a*", 8, "all")) == 2


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


UNUSUAL = {
    "turned.jpg": lambda: encoded(noise(0), "JPEG", exif=exif(6)),
    "turned.png": lambda: encoded(noise(0), "PNG", exif=exif(3)),
    "gray.png": lambda: encoded(noise(0)[..., 0]),
    "clear.png": lambda: encoded(np.dstack([noise(0), noise(1)[..., :1]])),
    "one clear colour.png": lambda: encoded(
        noise(0), transparency=tuple(int(x) for x in noise(0)[0, 0])
    ),
    "16 bits.png": lambda: encoded(noise(0)[..., 0].astype(np.uint16) * 257),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_images_are_what_a_folder_would_give(tmp_path, name):
    data = UNUSUAL[name]()
    (tmp_path / name).write_bytes(data)
    pattern = write(tmp_path / "records", "a.array_record", [data])
    image = open_array_record(pattern, 8, "all")[0]["image"]
    np.testing.assert_array_equal(image, read_image(tmp_path / name).pixels)
    assert image.shape == (8, 8, 3)


def test_splits_follow_a_record_and_not_the_other_files(tmp_path):
    records = [example(encoded(noise(seed)), str(seed)) for seed in range(60)]
    pattern = write(tmp_path, "b.array_record", records[:30])

    def named(split):
        return set(contents(open_array_record(pattern, 8, split, heldout_fraction=0.3)))

    train, heldout = named("train"), named("heldout")
    assert not train & heldout
    assert train | heldout == {str(seed) for seed in range(30)}
    assert heldout == {
        str(seed) for seed in range(30) if in_split(f"b.array_record:{seed}", "heldout", 0.3)
    }
    write(tmp_path, "a.array_record", records[30:])
    assert train < named("train")
    assert heldout < named("heldout")


def test_copies_for_worker_processes_open_their_own_readers(tmp_path):
    pattern = write(tmp_path, "a.array_record", [encoded(noise(seed)) for seed in range(20)])
    source = open_array_record(pattern, 8, "train", heldout_fraction=0.2)
    before = contents(source)
    copy = pickle.loads(pickle.dumps(source))
    assert list(contents(copy)) == list(before)
    with futures.ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda i: copy[i % len(copy)]["image"], range(100)))
    for index, image in enumerate(images):
        np.testing.assert_array_equal(image, source[index % len(copy)]["image"])


def test_a_split_of_many_records_takes_no_list(tmp_path, monkeypatch):
    """Eight bytes a record, with room to grow; a list of integers takes forty."""
    pattern, number = write(tmp_path, "a.array_record", [encoded(noise(0))]), 5_000
    monkeypatch.setattr(records_module, "_counted", lambda files: [(files[0], number)])
    tracemalloc.start()
    try:
        source = open_array_record(pattern, 8, "train", heldout_fraction=0.1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(source) == pytest.approx(0.9 * number, rel=0.03)
    assert peak < 24 * number


def at_the_limit(paths):
    raise RuntimeError(f"open() failed: Too many open files; opening {paths[0]}")


def test_the_limit_of_open_files_is_no_damage(tmp_path, monkeypatch):
    for seed in range(6):
        pattern = write(tmp_path / "x", f"{seed}.array_record", [encoded(noise(seed))])
    source = open_array_record(pattern, 8, "all")
    with file_limit(3), pytest.raises(OSError, match=r"limit of open files.*ulimit -n") as caught:
        contents(source)
    assert "Copy that file again" not in str(caught.value)
    with monkeypatch.context() as patch:
        patch.setattr(records_module, "ArrayRecordDataSource", at_the_limit)
        with pytest.raises(OSError, match="limit of open files"):
            open_array_record(pattern, 8, "all")
    assert len(contents(open_array_record(pattern, 8, "all"))) == 6


def test_index_out_of_range(dataset):
    source = open_tfds(dataset, 8, "train")
    for index in (-1, 10):
        with pytest.raises(IndexError, match=rf"index {index} is outside 0\.\.9"):
            source[index]


def test_what_is_listed_changes_with_the_data(tmp_path, dataset):
    pattern = write(tmp_path / "x", "a.array_record", [encoded(noise(seed)) for seed in range(3)])
    before = list(open_array_record(pattern, 8, "all").listing())
    moved = tmp_path / "moved"
    os.rename(tmp_path / "x", moved)
    assert list(open_array_record(f"{moved}/*", 8, "all").listing()) == before
    write(moved, "a.array_record", [encoded(noise(seed)) for seed in range(4)])
    assert list(open_array_record(f"{moved}/*", 8, "all").listing()) != before
    whole, part = open_tfds(dataset, 8, "train"), open_tfds(dataset, 8, "train", "train[:5]")
    assert list(whole.listing()) != list(part.listing())


BROKEN = {
    "cut image": (lambda: encoded(noise(0, 64))[:700], "truncated|broken"),
    "text": (lambda: b"no image at all", "not an image of a known format"),
    "empty": (lambda: b"", "the file is empty"),
    "text in an example": (lambda: example(b"no image", "a"), "not an image"),
    "not an example": (lambda: b"\n\xff\xff\xff", "neither an image file nor a tf.train.Example"),
    "no image feature": (lambda: example(b"x").replace(b"image", b"label"), "it has label"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_bad_record_is_named(tmp_path, case):
    make, reason = BROKEN[case]
    pattern = write(tmp_path, "a.array_record", [encoded(noise(0)), make()])
    source = open_array_record(pattern, 8, "all")
    np.testing.assert_array_equal(source[0]["image"], noise(0))
    with pytest.raises(UnreadableRecord, match=reason) as caught:
        source[1]
    assert f"cannot read 'a.array_record:1' in '{tmp_path}'" in str(caught.value)
    assert "codeformer-jax prepare" in str(caught.value)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    pattern = write(tmp_path, "a.array_record", [encoded(noise(0))])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    with pytest.raises(UnreadableRecord, match="more than 60 pixels"):
        open_array_record(pattern, 8, "all")[0]


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_damaged_file_is_named(tmp_path, damage):
    # More than a block of 64 KiB, so that something is cut off.
    pattern = write(tmp_path, "a.array_record", [encoded(noise(seed, 64)) for seed in range(20)])
    whole = (tmp_path / "a.array_record").read_bytes()
    content = {"cut": whole[: len(whole) // 2], "text": b"no records" * 9999, "empty": b""}[damage]
    (tmp_path / "b.array_record").write_bytes(content)
    with pytest.raises(
        UnreadableRecord, match=r"b\.array_record' is not a complete ArrayRecord file"
    ):
        open_array_record(pattern, 64, "all")
    shards = [Shard(f"{tmp_path}/b.array_record", 0, 20, 20)]
    with pytest.raises(UnreadableRecord, match=r"cannot read 'b\.array_record:19'"):
        Records("tfds:x", shards, 64)[19]


def test_a_missing_or_forbidden_shard(tmp_path, monkeypatch):
    folder = write_tfds(tmp_path, {"train": 4})
    (shard,) = (name for name in os.listdir(folder) if "array_record" in name)
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: "array_record" not in path)
        with pytest.raises(
            PermissionError, match=r"permission denied for .*array_record.*readable"
        ):
            open_tfds(folder, 8, "train")
        with pytest.raises(PermissionError, match="permission denied"):
            open_array_record(f"{folder}/*array_record*", 8, "train")
    os.remove(os.path.join(folder, shard))
    with pytest.raises(FileNotFoundError, match=rf"its file '.*{shard}' is missing; copy"):
        open_tfds(folder, 8, "train")


def test_patterns_and_splits_without_records(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file matches; give the files of records"):
        open_array_record(f"{tmp_path}/*.array_record", 8, "all")
    pattern = write(tmp_path, "a.array_record", [encoded(noise(0))])
    with pytest.raises(ValueError, match=r"split 'heldout' of .* none of its 1 records"):
        open_array_record(pattern, 8, "heldout", heldout_fraction=0.0)
    pattern = write(tmp_path / "empty", "a.array_record", [])
    with pytest.raises(ValueError, match="it has no records"):
        open_array_record(pattern, 8, "all")


def test_bad_names_of_datasets_and_splits(tmp_path, dataset):
    with pytest.raises(FileNotFoundError, match=r"'tfds:no_such_faces': no such dataset\. Give"):
        open_tfds("no_such_faces", 8, "train")
    with pytest.raises(FileNotFoundError, match="no such dataset"):
        open_tfds(f"{tmp_path}/nowhere", 8, "train")
    with pytest.raises(FileNotFoundError, match="no such dataset"):
        open_tfds(str(tmp_path), 8, "train")
    for split in ("training", "train[:x]", "train[50%"):
        with pytest.raises(ValueError, match=r"cannot take split .* the dataset has "):
            open_tfds(dataset, 8, "train", split)
    with pytest.raises(ValueError, match="is empty: it has no records"):
        open_tfds(dataset, 8, "train", "train[:0]")
    only = write_tfds(tmp_path, {"train": 2})
    with pytest.raises(ValueError, match=r"no split 'validation' or 'test'.*train\[90%:\]"):
        open_tfds(only, 8, "heldout")


def test_datasets_of_other_kinds(tmp_path):
    class Words(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict({"word": tfds.features.Text()})
            )

        def _split_generators(self, dl_manager):
            return {"train": iter([("a", {"word": "b"})])}

        def _generate_examples(self):
            raise NotImplementedError

    builder = Words(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare(download_config=OFFLINE)
    with pytest.raises(ValueError, match="has no feature 'image', only word"):
        open_tfds(str(builder.data_dir), 8, "train")
    info = pathlib.Path(builder.data_dir, "dataset_info.json")
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match="is stored as tfrecord, which has no random access"):
        open_tfds(str(builder.data_dir), 8, "train")
