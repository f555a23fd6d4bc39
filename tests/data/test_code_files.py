"""Folders of codes: read back by index and name, with the orientation of the picture; bad ones."""

import contextlib
import dataclasses
import itertools
import json
import pickle
import types

import numpy as np
import pytest
from recorded import file_limit

from codeformer_jax.data import precomputed_codes as codes_module
from codeformer_jax.data.examples import listing_digest
from codeformer_jax.data.pipeline import batches
from codeformer_jax.data.precomputed_codes import (
    Codes,
    CodesError,
    Description,
    WithCodes,
    write_shard,
)

NAMES = ("a b.png", "é/ü.png", "\udcff.png", *(f"n{i}.png" for i in range(3, 10)))


class Faces:
    """Examples called as in NAMES whose pixels tell number and orientation."""

    def __init__(self, names=NAMES, replaced=None):
        self.names, self.replaced = names, replaced or {}

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        actual = self.replaced.get(index, index)
        image = np.full((4, 4, 3), actual, np.uint8)
        image[:, 0, 1] = 255
        extra = {"index": actual} if self.replaced else {}
        return {"image": image, "name": self.names[actual], **extra}

    def listing(self):
        return iter(self.names)


ABOUT = Description(
    fingerprint="abc",
    source="faces",
    listing=listing_digest(Faces()),
    image_size=4,
    grid=(2, 3),
    codebook_size=1000,
    number=10,
    shard_records=2**14,
)


def drawn(number, size=1000):
    return np.random.default_rng(0).integers(0, size, (number, 2, 6)).astype(np.int32)


def write(directory, about=ABOUT, names=NAMES, values=None):
    """A folder of codes; its description is `about` whatever the records are."""
    directory.mkdir()
    (directory / "codes.json").write_text(about.to_json())
    values = drawn(len(names)) if values is None else values
    for shard, part in about.shards.items():
        kept = [i for i in part if i < len(names)]
        write_shard(directory / shard, (about.pack(values[i], names[i]) for i in kept))
    return directory


class Mixture:
    """Two sources in a row, in which the same names may occur; `index` counts through both."""

    def __init__(self, first, second):
        self.sources = first, second
        self.parts = tuple(types.SimpleNamespace(length=len(s), weight=1.0) for s in self.sources)

    def __len__(self):
        return sum(map(len, self.sources))

    def __getitem__(self, index):
        number, place = divmod(index, len(self.sources[0]))
        found = self.sources[number][place]
        actual = int(found.get("index", place)) + number * len(self.sources[0])
        return {**found, "index": actual}


def take(stream, count):
    with contextlib.closing(stream):
        return list(itertools.islice(stream, count))


@pytest.mark.parametrize("records", [2**14, 4])
@pytest.mark.parametrize("size", [1000, 2**16, 2**16 + 1])
def test_codes_come_back(tmp_path, records, size):
    about = dataclasses.replace(ABOUT, codebook_size=size, shard_records=records)
    values = drawn(10, size)
    values[0, 0, 0] = size - 1
    codes = Codes(write(tmp_path / "codes", about, values=values))
    assert len(list((tmp_path / "codes").iterdir())) == 1 + -(-10 // records)
    assert about.dtype.itemsize == (2 if size <= 2**16 else 4)
    assert codes.description == about
    for each in (codes, pickle.loads(pickle.dumps(codes))):
        for index in (9, 0, 3, 4, 2):
            read = each.read(index, NAMES[index])
            assert read.dtype == np.int32
            np.testing.assert_array_equal(read, values[index])


def orientation(step):
    """0 as it is, 1 mirrored, of each picture."""
    return (step["image"][:, 0, -1, 1] == 255).astype(int)


@pytest.mark.parametrize("flip", [True, False])
def test_a_batch_has_the_codes_of_its_pictures(tmp_path, flip):
    source = WithCodes(Faces(), Codes(write(tmp_path / "codes")))
    seen = set()
    for step in take(batches(source, batch_size=4, seed=0, flip=flip), 20):
        turned = orientation(step)
        seen |= set(turned.tolist())
        assert step["codes"].dtype == np.int32
        np.testing.assert_array_equal(step["codes"], drawn(10)[step["index"], turned])
    assert seen == ({0, 1} if flip else {0})


def test_codes_do_not_change_the_pictures(tmp_path):
    source = WithCodes(Faces(), Codes(write(tmp_path / "codes")))
    for plain, coded in zip(
        take(batches(Faces(), batch_size=4, seed=3), 9),
        take(batches(source, batch_size=4, seed=3), 9),
        strict=True,
    ):
        assert plain.keys() == coded.keys() - {"codes"}
        np.testing.assert_array_equal(plain["image"], coded["image"])


def test_worker_processes_read_the_same_codes(tmp_path):
    source = WithCodes(Faces(), Codes(write(tmp_path / "codes")))
    threads = take(batches(source, batch_size=4, seed=0), 4)
    processes = take(batches(source, batch_size=4, seed=0, workers=2), 4)
    for one, other in zip(threads, processes, strict=True):
        np.testing.assert_array_equal(one["codes"], other["codes"])


def test_codes_follow_an_example_that_replaces_a_broken_one(tmp_path):
    source = WithCodes(Faces(replaced={4: 5, 9: 0}), Codes(write(tmp_path / "codes")))
    np.testing.assert_array_equal(source[4]["codes"], drawn(10)[5])
    np.testing.assert_array_equal(source[9]["codes"], drawn(10)[0])
    for step in take(batches(source, batch_size=10, seed=0), 2):
        assert sorted(step["index"].tolist()) == [0, 0, 1, 2, 3, 5, 5, 6, 7, 8]
        np.testing.assert_array_equal(step["codes"], drawn(10)[step["index"], orientation(step)])


def test_codes_of_a_mixture_follow_the_place_in_it(tmp_path):
    mixture = Mixture(Faces(), Faces(replaced={4: 6}))
    about = dataclasses.replace(ABOUT, number=20, listing=listing_digest(Faces(NAMES + NAMES)))
    codes = Codes(write(tmp_path / "codes", about, NAMES + NAMES))
    source = WithCodes(mixture, codes)
    for index, place in {0: 0, 9: 9, 10: 10, 14: 16, 19: 19}.items():
        np.testing.assert_array_equal(source[index]["codes"], drawn(20)[place])
    for step in take(batches(source, batch_size=4, seed=0), 5):
        np.testing.assert_array_equal(step["codes"], drawn(20)[step["index"], orientation(step)])
    with pytest.raises(CodesError, match=r"example 10 is 'a b\.png' there and 'n9\.png' in the"):
        WithCodes(Mixture(Faces(), Faces(NAMES[::-1])), codes)[10]


def test_a_source_with_codes_is_drawn_like_the_one_without(tmp_path):
    """A mixture stays one for the pipeline, which looks at `parts`, and for what describes it."""
    codes = Codes(write(tmp_path / "codes"))
    single = Faces()
    assert WithCodes(single, codes).parts is None
    assert WithCodes(single, codes).sources == (single,)
    mixture = Mixture(Faces(NAMES[:5]), Faces(NAMES[5:]))
    assert WithCodes(mixture, codes).parts is mixture.parts
    assert WithCodes(mixture, codes).sources is mixture.sources


class Renamed:
    """A source under other names that lists the former ones."""

    def __init__(self, source, at=None):
        self.source, self.at = source, at

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        found = self.source[index]
        return {**found, "name": "x" + found["name"]} if self.at in (None, index) else found

    def listing(self):
        return self.source.listing()


def test_another_dataset_is_refused(tmp_path):
    codes = Codes(write(tmp_path / "codes"))
    with pytest.raises(CodesError, match=r"example 0 is 'a b\.png' there and 'xa b\.png' in the"):
        WithCodes(Renamed(Faces()), codes)
    with pytest.raises(CodesError, match=r"codes of 10 images, the data have 9.*10 images of 'fac"):
        WithCodes(Faces(NAMES[:9]), codes)


def test_another_listing_is_refused_at_the_start(tmp_path):
    codes = Codes(write(tmp_path / "codes"))
    one_renamed = [name.replace("n4", "x4") for name in NAMES]  # Not one of those looked at.
    with pytest.raises(CodesError, match=r"codes of other images: the data have as many, but not"):
        WithCodes(Faces(one_renamed), codes)
    two = Mixture(Faces(NAMES[:5]), Faces(one_renamed[5:]))
    assert WithCodes(two, codes)[9]["name"] == "n9.png"
    with pytest.raises(CodesError, match=r"made of 10 images of 'faces'.*--data SOURCE --force"):
        WithCodes(Mixture(Faces(one_renamed[:5]), Faces(NAMES[5:])), codes)


def test_a_single_other_name_is_found_when_it_is_read(tmp_path):
    codes = Codes(write(tmp_path / "codes"))
    at = 4
    source = WithCodes(Renamed(Faces(), at), codes)
    assert source[0]["codes"].shape == (2, 6)
    with pytest.raises(CodesError, match=r"example 4 is 'n4\.png' there and 'xn4\.png'"):
        source[at]
    with pytest.raises(CodesError, match="'xn4"):
        take(batches(source, batch_size=5, seed=0), 2)


def test_no_codes_there(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"no codes in .*codeformer-jax encode"):
            Codes(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("", "JSONDecodeError"),
        (ABOUT.to_json()[:40], "JSONDecodeError"),
        ("[]", "cannot be used"),
        ("{}", "KeyError"),
        ({"format": "faces"}, "this version reads"),
        ({"version": 2}, "this version reads"),
        ({"number": 0}, "no sizes"),
        ({"number": 2.5}, "no sizes"),
        ({"shard_records": 0}, "no sizes"),
        ({"grid": [2]}, "no sizes"),
        ({"grid": None}, "cannot be used"),
        ({"codebook_size": "many"}, "cannot be used"),
        ({"colour": 1}, "unexpected keyword"),
    ],
)
def test_a_damaged_description_is_refused(tmp_path, change, message):
    path = write(tmp_path / "codes") / "codes.json"
    if isinstance(change, dict):
        change = json.dumps(json.loads(path.read_text()) | change)
    path.write_text(change)
    with pytest.raises(CodesError, match=rf"codes\.json'.*{message}") as e:
        Codes(path.parent)
    assert "encode again: codeformer-jax encode" in str(e.value)


def shard(directory):
    (path,) = directory.glob("*.array_record")
    return path


@pytest.mark.parametrize("kept", [0, 100, 40_000, -1])
def test_a_truncated_shard_is_refused(tmp_path, kept):
    path = shard(write(tmp_path / "codes"))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CodesError, match=r"is damaged .*encode again"):
        Codes(path.parent)


def test_a_missing_shard_is_refused(tmp_path):
    path = shard(write(tmp_path / "codes"))
    path.unlink()
    with pytest.raises(CodesError, match=r"is damaged .*No such file"):
        Codes(path.parent)


def test_fewer_records_than_described_are_refused(tmp_path):
    write(tmp_path / "codes", names=NAMES[:7])
    with pytest.raises(CodesError, match="7 records, expected 10"):
        Codes(tmp_path / "codes")


def test_a_flipped_bit_is_found_when_its_record_is_read(tmp_path):
    path = shard(write(tmp_path / "codes"))
    content = bytearray(path.read_bytes())
    content[content.index(b"n5.png") - 3] ^= 1
    path.write_bytes(content)
    codes = Codes(path.parent)
    assert codes.read(1, NAMES[1]).shape == (2, 6)
    with pytest.raises(CodesError, match=r"is damaged \(record 5: "):
        codes.read(5, NAMES[5])


def test_codes_beyond_the_codebook_are_refused(tmp_path):
    values = drawn(10)
    values[2, 1, 3] = 1000
    codes = Codes(write(tmp_path / "codes", values=values))
    with pytest.raises(CodesError, match=r"record 2: codes outside 0\.\.999"):
        codes.read(2, NAMES[2])
    with pytest.raises(CodesError, match="has 10 examples, asked for 10"):
        codes.read(10, "n10.png")


def test_a_record_of_another_grid_is_refused(tmp_path):
    write(tmp_path / "codes")
    about = dataclasses.replace(ABOUT, grid=(20, 20))
    (tmp_path / "codes" / "codes.json").write_text(about.to_json())
    with pytest.raises(CodesError, match="record 3: "):
        Codes(tmp_path / "codes").read(3, NAMES[3])


@pytest.mark.parametrize(
    ("number", "shards"), [(1, 1), (70_000, 5), (2**21, 128), (2**21 + 1, 128), (10_000_000, 128)]
)
def test_shards_are_few(number, shards):
    records = codes_module.records_per_shard(number)
    parts = dataclasses.replace(ABOUT, number=number, shard_records=records).shards
    assert len(parts) == shards
    joined = [0, *(part.stop for part in parts.values())]
    assert [part.start for part in parts.values()] == joined[:-1]
    assert joined[-1] == number


def at_the_limit(paths):
    raise RuntimeError(f"open() failed: Too many open files; opening {paths[0]}")


def test_the_limit_of_open_files_is_no_damage(tmp_path, monkeypatch):
    about = dataclasses.replace(ABOUT, shard_records=1)
    directory = write(tmp_path / "codes", about)
    codes = Codes(directory)
    with file_limit(3), pytest.raises(OSError, match=r"limit of open files.*ulimit -n") as caught:
        [codes.read(index, NAMES[index]) for index in range(10)]
    assert "again" not in str(caught.value)
    with monkeypatch.context() as patch:
        patch.setattr(codes_module, "ArrayRecordDataSource", at_the_limit)
        with pytest.raises(OSError, match="limit of open files"):
            Codes(directory)
    assert Codes(directory).read(9, NAMES[9]).shape == (2, 6)


def test_a_shard_that_cannot_be_written(tmp_path):
    with pytest.raises(OSError, match="cannot write"):
        write_shard(tmp_path / "none" / "a.array_record", [b"x"])


class Failing:
    """A writer on a full disk: closing fails as well."""

    def __init__(self, *_):
        pass

    def write(self, record):
        if record == b"last":
            raise RuntimeError("No space left on device")

    def close(self):
        raise RuntimeError("close() failed: bad state")


def test_the_first_error_is_the_one_told(tmp_path, monkeypatch):
    monkeypatch.setattr(codes_module, "ArrayRecordWriter", Failing)
    with pytest.raises(OSError, match=r"cannot write '.*a': No space left on device"):
        write_shard(tmp_path / "a", [b"first", b"last"])
    with pytest.raises(OSError, match=r"cannot write '.*a': close\(\) failed"):
        write_shard(tmp_path / "a", [b"first"])


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_fails_while_encoding_is_no_error_of_the_file(tmp_path, monkeypatch, error):
    def records():
        yield b"first"
        raise error("RESOURCE_EXHAUSTED: out of memory on the device")

    monkeypatch.setattr(codes_module, "ArrayRecordWriter", Failing)
    with pytest.raises(error, match=r"^RESOURCE_EXHAUSTED"):
        write_shard(tmp_path / "a", records())
