"""The pipeline: a batch is a pure function of (seed, step) for any workers, start and hosts."""

import contextlib
import itertools
import pickle
import time

import numpy as np
import pytest
from ml_collections import config_dict
from PIL import Image

from codeformer_jax.data.examples import CachedSource
from codeformer_jax.data.folder import ImageFolder, TooManyUnreadable
from codeformer_jax.data.pipeline import batches, evaluation_batches
from codeformer_jax.data.sources import open_source
from codeformer_jax.data.views import Jitter
from codeformer_jax.system import shared_arrays


class Numbered:
    """Tells in the pixels which example it is, and whether it is mirrored; counts reads."""

    def __init__(self, length):
        self.length = length
        self.reads = 0

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.reads += 1
        image = np.full((4, 6, 3), index, np.uint8)
        image[:, 0, 1] = 255
        return {"image": image, "name": f"n{index}"}


class Replacing(Numbered):
    """Example 1 is broken: the source gives the next one."""

    def __getitem__(self, index):
        actual = 2 if index == 1 else index
        return super().__getitem__(actual) | {"index": actual}


def take(stream, count=None):
    with contextlib.closing(stream):
        return list(itertools.islice(stream, count))


def assert_equal(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def indices(steps):
    return np.stack([step["index"] for step in steps])


def mirrored(steps):
    return np.stack([step["image"][:, 0, -1, 1] == 255 for step in steps])


@pytest.fixture
def folder(tmp_path):
    for index in range(10):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    return ImageFolder(tmp_path, 8, "all")


def test_contents_of_a_batch():
    (step,) = take(batches(Numbered(10), batch_size=4, seed=0), 1)
    assert step.keys() == {"image", "index", "name"}
    assert step["image"].shape == (4, 4, 6, 3)
    assert step["image"].dtype == np.uint8
    assert step["index"].dtype == np.int32
    np.testing.assert_array_equal(step["image"][:, 0, 2, 0], step["index"])
    assert step["name"].tolist() == [f"n{index}" for index in step["index"]]


def test_same_seed_same_stream_other_seed_another():
    streams = [take(batches(Numbered(50), batch_size=4, seed=seed), 9) for seed in (3, 3, 4)]
    assert_equal(streams[0], streams[1])
    assert (indices(streams[0]) != indices(streams[2])).mean() > 0.8
    assert (mirrored(streams[0]) != mirrored(streams[2])).mean() > 0.2


def test_a_stream_started_later_continues_the_one_from_the_start():
    whole = take(batches(Numbered(10), batch_size=4, seed=1), 22)
    assert_equal(take(batches(Numbered(10), batch_size=4, seed=1, start_step=17), 5), whole[17:])


def test_worker_processes_give_the_same_stream(folder):
    whole = take(batches(folder, batch_size=4, seed=1), 22)
    assert not np.array_equal(whole[0]["image"], whole[1]["image"])
    spread = take(batches(folder, batch_size=4, seed=1, start_step=17, workers=2), 5)
    assert_equal(spread, whole[17:])


def test_every_epoch_holds_every_example_once_in_a_new_order():
    epochs = indices(take(batches(Numbered(12), batch_size=4, seed=0), 9)).reshape(3, 12)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(12), (3, 1)))
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[1] != epochs[2]).any()


def test_without_flip_nothing_is_mirrored():
    assert not mirrored(
        take(batches(Numbered(5), batch_size=2, seed=0, jitter=Jitter(flip=False)), 5)
    ).any()


def test_flips_mirror_half_of_the_examples_anew_every_epoch():
    steps = take(batches(Numbered(64), batch_size=64, seed=0), 20)
    flips = mirrored(steps)
    assert 0.45 < flips.mean() < 0.55
    by_example = np.take_along_axis(flips, np.argsort(indices(steps)), axis=1)
    assert 0.4 < (by_example[0] != by_example[1:]).mean() < 0.6
    plain = Numbered(64)
    for found, index, flip in zip(steps[0]["image"], steps[0]["index"], flips[0], strict=True):
        image = plain[index]["image"]
        np.testing.assert_array_equal(found, image[:, ::-1] if flip else image)


def test_hosts_share_the_global_batch_and_draw_different_flips():
    whole = take(batches(Numbered(100), batch_size=8, seed=2), 20)
    parts = [
        take(batches(Numbered(100), batch_size=8, seed=2, host=host, hosts=2), 20)
        for host in range(2)
    ]
    for step, first, second in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(step["image"][:4], first["image"])
        np.testing.assert_array_equal(step["image"][4:], second["image"])
    assert 0.3 < (mirrored(parts[0]) != mirrored(parts[1])).mean() < 0.7


@pytest.mark.parametrize(("length", "batch_size"), [(1, 4), (3, 8)])
def test_batches_larger_than_the_source_repeat_examples(length, batch_size):
    steps = take(batches(Numbered(length), batch_size=batch_size, seed=0), 6)
    counts = np.bincount(indices(steps).ravel(), minlength=length)
    assert counts.sum() == 6 * batch_size
    assert counts.max() - counts.min() <= 1


def test_evaluation_takes_every_example_once_and_pads_the_last_batch():
    steps = take(evaluation_batches(Numbered(10), batch_size=4))
    assert indices(steps).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]
    assert [step["valid"].tolist() for step in steps] == [
        [True] * 4,
        [True] * 4,
        [True, True, False, False],
    ]
    assert steps[0]["valid"].dtype == bool
    assert not mirrored(steps).any()


def test_evaluation_of_fewer_examples_than_a_batch():
    (step,) = take(evaluation_batches(Numbered(2), batch_size=5))
    assert step["valid"].tolist() == [True, True, False, False, False]
    assert step["image"].shape == (5, 4, 6, 3)


def test_evaluation_gives_every_host_as_many_batches():
    steps = [
        take(evaluation_batches(Numbered(5), batch_size=4, host=host, hosts=4)) for host in range(4)
    ]
    assert [len(part) for part in steps] == [2] * 4
    valid = np.concatenate([step["valid"] for part in steps for step in part])
    seen = np.concatenate([step["index"] for part in steps for step in part])
    assert sorted(seen[valid].tolist()) == [0, 1, 2, 3, 4]


def test_evaluation_does_not_count_a_replacement_twice():
    (step,) = take(evaluation_batches(Replacing(4), batch_size=4))
    assert step["index"].tolist() == [0, 2, 2, 3]
    assert step["valid"].tolist() == [True, False, True, True]


@pytest.mark.slow
def test_evaluation_with_worker_processes(folder):
    """Nothing of it is in shared memory of grain's, which Python would call leaked as it exits."""
    steps = take(evaluation_batches(folder, batch_size=4, workers=2))
    assert_equal(steps, take(evaluation_batches(folder, batch_size=4)))
    assert {type(value) for step in steps for value in step.values()} == {np.ndarray}


def test_too_little_shared_memory_is_an_error_before_a_worker_starts(folder, monkeypatch):
    monkeypatch.setattr(shared_arrays, "_free", lambda: 32768)
    with pytest.raises(shared_arrays.SharedMemoryFull, match=r"/dev/shm has 32,768 free"):
        batches(folder, batch_size=4, seed=0, workers=2)


@pytest.mark.slow
def test_workers_read_less_far_ahead_with_little_shared_memory(folder, monkeypatch):
    monkeypatch.setattr(shared_arrays, "_free", lambda: 2**18 + 8000)
    stream = batches(folder, batch_size=4, seed=0, workers=2)  # Slots of 1,000 bytes.
    assert_equal(take(stream, 5), take(batches(folder, batch_size=4, seed=0), 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "the source is empty"),
        ({"batch_size": 0}, "batch_size=0 must be a positive multiple"),
        ({"hosts": 3}, "batch_size=4 must be a positive multiple of hosts=3"),
        ({"host": 2, "hosts": 2}, "host=2 of hosts=2"),
        ({"workers": -1}, r"workers must be 0 \(threads\) or more, got -1"),
        ({"start_step": -1}, "start_step must not be negative, got -1"),
        ({"seed": -1}, "seed must be within"),
        ({"seed": 2**32}, "seed must be within"),
    ],
)
def test_bad_arguments(options, message):
    options = {"length": 5, "batch_size": 4, "seed": 0} | options
    with pytest.raises(ValueError, match=message):
        batches(Numbered(options.pop("length")), **options)


def test_errors_of_the_source_reach_the_reader(tmp_path, folder):
    for name in folder.names:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:60])
    stream = batches(folder, batch_size=4, seed=0)
    with pytest.raises(ValueError, match="no image is left that can be decoded"):
        take(stream, 1)


def test_cache_reads_each_example_once_and_changes_nothing():
    source = Numbered(10)
    cached = CachedSource(source)
    assert_equal(
        take(batches(cached, batch_size=5, seed=0), 6),
        take(batches(Numbered(10), batch_size=5, seed=0), 6),
    )
    reads = source.reads
    for index in range(10):
        cached[index]
    assert source.reads == reads
    with pytest.raises(ValueError, match="read-only"):
        cached[0]["image"][:] = 0


def test_cache_goes_empty_to_worker_processes():
    cached = CachedSource(Numbered(200))
    for index in range(200):
        cached[index]
    assert len(pickle.dumps(cached)) < 500


def test_cache_limit_is_checked_when_opened():
    with pytest.raises(
        ValueError, match=r"data.cache=True: 10 pictures take 720 bytes.*data\.cache=False"
    ):
        CachedSource(Numbered(10), max_bytes=719)
    assert len(CachedSource(Numbered(10), max_bytes=720)) == 10


def data_config(**values):
    config = config_dict.ConfigDict({"image_size": 8, "synthetic_length": 30, "heldout_length": 6})
    config.path = config_dict.placeholder(str)
    config.update(values)
    return config


@pytest.fixture
def faces(monkeypatch):
    """Stands in for the renderer, and remembers how it was asked."""

    class SyntheticFaces(Numbered):
        def __init__(self, split, size, length, seed):
            super().__init__(length)
            self.asked = (split, size, length, seed)

    monkeypatch.setattr("codeformer_jax.data.sources.SyntheticFaces", SyntheticFaces)


@pytest.mark.usefixtures("faces")
def test_open_source_without_path_gives_synthetic_faces():
    assert open_source(data_config(), "train").asked == ("train", 8, 30, 0)
    assert open_source(data_config(seed=5), "heldout").asked == ("heldout", 8, 6, 5)
    assert isinstance(open_source(data_config(cache=True), "train"), CachedSource)


def test_synthetic_faces_of_both_splits_go_through_the_pipeline():
    config = data_config(image_size=32, synthetic_length=6, heldout_length=3, cache=True)
    (step,) = take(batches(open_source(config, "train"), batch_size=6, seed=0), 1)
    (heldout,) = take(evaluation_batches(open_source(config, "heldout"), batch_size=4))
    assert step["image"].shape == (6, 32, 32, 3)
    assert len(set(step["name"].tolist())) == 6
    assert heldout["valid"].tolist() == [True, True, True, False]
    assert not set(step["name"].tolist()) & set(heldout["name"].tolist())


def test_open_source_with_path_gives_the_folder(tmp_path, folder):
    source = open_source(data_config(path=str(tmp_path), heldout_fraction=0.0), "train")
    assert isinstance(source, ImageFolder)
    assert source.names == folder.names
    half = open_source(data_config(path=str(tmp_path), heldout_fraction=0.5), "heldout")
    assert half.names == ImageFolder(tmp_path, 8, "heldout", heldout_fraction=0.5).names
    given = {"path": str(tmp_path), "heldout_fraction": 0.0}
    cached = open_source(data_config(**given, cache=True), "train")
    assert cached[3]["name"] == "3.png"
    with pytest.raises(ValueError, match="more than the limit of 100"):
        open_source(data_config(**given, cache=True, cache_bytes=100), "train")
    with pytest.raises(TooManyUnreadable):
        open_source(data_config(**given, min_size=9, max_unreadable=0), "train")


class Failing(Numbered):
    """Its example 10 cannot be read."""

    def __getitem__(self, index):
        if int(index) == 10:
            raise ValueError("disk error at 10")
        return super().__getitem__(index)


@pytest.mark.slow
def test_what_fails_in_a_worker_comes_after_the_batches_before_it():
    """Also to a consumer that is slower than the worker."""
    stream = evaluation_batches(Failing(32), batch_size=2, workers=1)
    with contextlib.closing(stream):
        for step in range(5):
            time.sleep(2.0 if step == 0 else 0.2)
            assert next(stream)["index"].tolist() == [2 * step, 2 * step + 1]
        with pytest.raises(ValueError, match="disk error at 10"):
            next(stream)
