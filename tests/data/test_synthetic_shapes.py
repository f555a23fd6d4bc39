"""Shapes in ten classes: fixed by their index, with labels, and different enough to tell apart."""

import contextlib
import hashlib
import pickle

import numpy as np
import pytest
from ml_collections import ConfigDict

from codeformer_jax.data.pipeline import batches, evaluation_batches
from codeformer_jax.data.sources import SourceError, open_heldout, open_source
from codeformer_jax.data.synthetic import SHAPE_CLASSES, SyntheticShapes, draw_shape
from codeformer_jax.data.views import Jitter

SIZE = 32


def config_of(path, eval_path=None):
    data = {"path": path, "image_size": SIZE, "heldout_length": 30, "synthetic_length": 5}
    return ConfigDict({"data": data, "eval": {"path": eval_path}})


def test_pictures_follow_from_their_index():
    source = SyntheticShapes("train", SIZE, 40)
    again = pickle.loads(pickle.dumps(source))
    for i in (0, 7, 39):
        one, other = source[i], again[i]
        np.testing.assert_array_equal(one["image"], other["image"])
        assert (one["name"], one["label"]) == (f"shapes/train/{i:08d}", i % 10)
        assert one["image"].shape == (SIZE, SIZE, 3)
        assert one["image"].dtype == np.uint8
        assert one["image"].std() > 10
    digests = {
        hashlib.sha256(SyntheticShapes(split, SIZE, 40, seed)[i]["image"].tobytes()).digest()
        for split in ("train", "heldout")
        for seed in (0, 1)
        for i in range(40)
    }
    assert len(digests) == 160


@pytest.mark.parametrize("label", range(10))
def test_size_does_not_change_a_shape(label):
    small = draw_shape(label, 3, 32).astype(float)
    large = draw_shape(label, 3, 128).astype(float).reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
    assert 10 * np.log10(255**2 / np.mean((small - large) ** 2)) > 30


def test_classes_can_be_told_apart():
    """Classifies by nearest neighbours among upright masks: far above chance, not perfectly."""

    def features(split, count):
        source = SyntheticShapes(split, SIZE, count)
        found = []
        for i in range(count):
            gray = source[i]["image"].astype(float).mean(axis=-1)
            gray = gray - np.median(gray[[0, -1]])  # The background is 0,
            gray = np.abs(gray) / np.abs(gray).max()  # the shape 1.
            found.append(np.abs(np.fft.fft2(gray)).ravel())  # Wherever it lies.
        return np.stack(found), np.arange(count) % 10

    known, labels = features("train", 600)
    asked, truth = features("heldout", 100)
    distances = ((asked[:, None] - known[None]) ** 2).sum(axis=-1)
    right = np.mean(labels[distances.argmin(axis=1)] == truth)
    assert right > 0.8


def test_shapes_by_their_string():
    train = open_source(config_of("synthetic_shapes:50").data, "train")
    heldout = open_heldout(config_of("synthetic_shapes:50"))
    assert (len(train), len(heldout)) == (50, 30)
    assert len(open_heldout(config_of(None, "synthetic_shapes:20"))) == 20
    assert (train[13]["label"], heldout[13]["name"]) == (3, "shapes/heldout/00000013")
    with pytest.raises(SourceError, match="synthetic_shapes:many needs a number of pictures"):
        open_source(config_of("synthetic_shapes:many").data, "train")


def test_labels_come_with_their_pictures():
    source = SyntheticShapes("train", SIZE, 20)
    with contextlib.closing(
        batches(source, batch_size=8, seed=0, jitter=Jitter(flip=False))
    ) as stream:
        for _ in range(3):
            batch = next(stream)
            assert batch["label"].dtype == np.int32
            for k, image in enumerate(batch["image"]):
                np.testing.assert_array_equal(batch["label"][k], batch["index"][k] % 10)
                np.testing.assert_array_equal(image, source[int(batch["index"][k])]["image"])
    with contextlib.closing(evaluation_batches(source, batch_size=8)) as stream:
        np.testing.assert_array_equal(next(stream)["label"], np.arange(8))


def test_a_mixture_with_a_part_without_labels_has_none():
    config = config_of("1 * synthetic_shapes:20 + 1 * synthetic:20")
    source = open_source(config.data, "train")
    with contextlib.closing(batches(source, batch_size=8, seed=0)) as stream:
        assert "label" not in next(stream)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"split": "all"}, "split is 'all'; choose one of train, heldout"),
        ({"size": 8}, "size is 8"),
        ({"length": -1}, "length is -1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SyntheticShapes(**{"split": "train", "size": SIZE, "length": 3, "seed": 0} | fields)


def test_outside_there_is_nothing():
    with pytest.raises(IndexError, match="index is 3; this source has 3 pictures, from 0"):
        SyntheticShapes("train", SIZE, 3)[3]
    assert len(SHAPE_CLASSES) == 10
