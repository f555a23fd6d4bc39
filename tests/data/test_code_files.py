"""Folders of codes: read back with the orientation of the picture; other images, damaged files."""

import contextlib
import dataclasses
import itertools
import json
import pickle

import numpy as np
import pytest
from recorded import write_records

from codeformer_jax.data.examples import Mixture, listing_digest
from codeformer_jax.data.pipeline import batches
from codeformer_jax.data.precomputed_codes import (
    Codes,
    CodesError,
    Description,
    WithCodes,
    write_codes,
)
from codeformer_jax.data.views import Jitter

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
)


def drawn(number, size=1000):
    return np.random.default_rng(0).integers(0, size, (number, 2, 6)).astype(np.int32)


def write(directory, about=ABOUT):
    directory.mkdir()
    values = drawn(about.number, about.codebook_size)
    write_codes(directory, about, [values[:4], values[4:], values])
    return directory


def write_version_1(directory, values, about=ABOUT):
    """A folder of codes as version 1 of the format had it, in two shards."""
    fields = dataclasses.asdict(about)
    del fields["sha256"]
    fields |= {"format": "codeformer-jax codes", "version": 1, "shard_records": 6}
    records = [codes.astype("<u2").tobytes() + b"name.png" for codes in values]
    directory.mkdir()
    (directory / "codes.json").write_text(json.dumps(fields))
    write_records(directory / "00000-of-00002.array_record", records[:6])
    write_records(directory / "00001-of-00002.array_record", records[6:])
    return directory


def take(stream, count):
    with contextlib.closing(stream):
        return list(itertools.islice(stream, count))


@pytest.mark.parametrize("size", [1000, 2**16, 2**16 + 1])
def test_codes_come_back(tmp_path, size):
    about = dataclasses.replace(ABOUT, codebook_size=size)
    codes = Codes(write(tmp_path / "codes", about))
    stored = np.load(tmp_path / "codes" / "codes.npy")
    assert stored.dtype.itemsize == (2 if size <= 2**16 else 4)
    np.testing.assert_array_equal(stored, drawn(10, size))
    assert dataclasses.replace(codes.description, sha256="") == about
    sent = pickle.dumps(codes)
    assert len(sent) < 1000
    for each in (codes, pickle.loads(sent)):
        for index in (9, 0, 4):
            assert each[index].dtype == np.int32
            np.testing.assert_array_equal(each[index], drawn(10, size)[index])


def test_codes_of_version_1_are_read(tmp_path):
    codes = Codes(write_version_1(tmp_path / "codes", drawn(10)))
    for each in (codes, pickle.loads(pickle.dumps(codes))):
        np.testing.assert_array_equal(np.stack([each[i] for i in range(10)]), drawn(10))
    assert WithCodes(Faces(), codes)[7]["codes"].tolist() == drawn(10)[7].tolist()


def test_damaged_codes_of_version_1_are_refused(tmp_path):
    beyond = drawn(10)
    beyond[2, 1, 3] = 1000
    with pytest.raises(CodesError, match=r"is damaged .*outside 0\.\.999.*encode again"):
        Codes(write_version_1(tmp_path / "beyond", beyond))
    with pytest.raises(CodesError, match=r"shape \(7, 2, 6\), expected \(10, 2, 6\)"):
        Codes(write_version_1(tmp_path / "fewer", drawn(7)))
    path = write_version_1(tmp_path / "cut", drawn(10)) / "00001-of-00002.array_record"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CodesError, match=r"is damaged .*encode again"):
        Codes(path.parent)


def orientation(step):
    """0 as it is, 1 mirrored, of each picture."""
    return (step["image"][:, 0, -1, 1] == 255).astype(int)


@pytest.mark.parametrize("flip", [True, False])
def test_a_batch_has_the_codes_of_its_pictures(tmp_path, flip):
    source = WithCodes(Faces(), Codes(write(tmp_path / "codes")))
    seen = set()
    for step in take(batches(source, batch_size=4, seed=0, jitter=Jitter(flip=flip)), 20):
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


@pytest.mark.slow
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
    mixture = Mixture([Faces(), Faces(replaced={4: 6})], [1.0, 1.0])
    about = dataclasses.replace(ABOUT, number=20, listing=listing_digest(Faces(NAMES + NAMES)))
    codes = Codes(write(tmp_path / "codes", about))
    source = WithCodes(mixture, codes)
    assert source.weights is mixture.weights
    assert source.sources is mixture.sources
    for index, place in {0: 0, 9: 9, 10: 10, 14: 16, 19: 19}.items():
        np.testing.assert_array_equal(source[index]["codes"], drawn(20)[place])
    for step in take(batches(source, batch_size=4, seed=0), 5):
        np.testing.assert_array_equal(step["codes"], drawn(20)[step["index"], orientation(step)])
    with pytest.raises(CodesError, match="not all with the same names"):
        WithCodes(Mixture([Faces(), Faces(NAMES[::-1])], [1.0, 1.0]), codes)


def test_codes_of_other_images_are_refused(tmp_path):
    codes = Codes(write(tmp_path / "codes"))
    with pytest.raises(CodesError, match=r"codes of 10 images of 'faces', and the data have 9 im"):
        WithCodes(Faces(NAMES[:9]), codes)
    one_renamed = [name.replace("n4", "x4") for name in NAMES]
    with pytest.raises(CodesError, match=r"as many, but not all.*--data SOURCE --force"):
        WithCodes(Faces(one_renamed), codes)


def test_no_codes_there(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"no codes in .*codeformer-jax encode"):
            Codes(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("", "JSONDecodeError"),
        ('{"format": "codeformer-jax', "JSONDecodeError"),
        ("[]", "cannot be used"),
        ("{}", "KeyError"),
        ({"format": "faces"}, "expected 'codeformer-jax codes'"),
        ({"version": 3}, "expected .* 1 or 2"),
        ({"number": 0}, "positive integers"),
        ({"number": 2.5}, "positive integers"),
        ({"grid": [2]}, "positive integers"),
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


def flipped(data):
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: b"", flipped, None])
def test_damaged_codes_are_refused(tmp_path, change):
    path = write(tmp_path / "codes") / "codes.npy"
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CodesError, match=r"is damaged .*encode again"):
        Codes(path.parent)


def test_an_array_of_another_shape_is_refused(tmp_path):
    path = write(tmp_path / "codes") / "codes.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"grid": [3, 3]}))
    with pytest.raises(CodesError, match=r"shape \(10, 2, 6\), expected \(10, 2, 9\)"):
        Codes(path.parent)
