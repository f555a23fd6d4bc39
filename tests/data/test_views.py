"""Random views: geometry, the stream they are drawn in, and what refuses them."""

import contextlib

import ml_collections
import numpy as np
import pytest

from codeformer_jax.data.images import resize_image
from codeformer_jax.data.pipeline import batches
from codeformer_jax.data.views import Jitter, View, oversampled, resample_view
from codeformer_jax.tasks import settings

SIDE = 64


def spot(x, y):
    """A picture of 2 * SIDE px, black but for a blurred white spot at (x, y) from its centre."""
    rows, columns = np.mgrid[: 2 * SIDE, : 2 * SIDE] + 0.5 - SIDE
    bright = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 50)
    return np.repeat(bright[..., None].round().astype(np.uint8), 3, axis=-1)


def place(image):
    """Centre of brightness from the picture's centre, in pixels."""
    weights = image[..., 0].astype(float)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    total, half = weights.sum(), image.shape[0] / 2
    return (columns * weights).sum() / total - half, (rows * weights).sum() / total - half


def test_the_plain_view_is_the_resized_picture():
    picture = np.random.default_rng(0).integers(0, 256, (2 * SIDE, 2 * SIDE, 3), np.uint8)
    np.testing.assert_array_equal(resample_view(picture, View()), resize_image(picture, SIDE))


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (View(angle=90.0), (0, -10)),
        (View(angle=-90.0), (0, 10)),
        (View(zoom=1.5), (15, 0)),
        (View(zoom=0.8), (8, 0)),
        (View(shift=(0.1, -0.05)), (10 - 0.1 * SIDE, 0.05 * SIDE)),
    ],
)
def test_a_view_moves_what_it_shows(view, expected):
    np.testing.assert_allclose(place(resample_view(spot(20, 0), view)), expected, atol=0.05)


@pytest.mark.parametrize(
    "view",
    [View(angle=45.0, zoom=0.5, shift=(0.5, -0.5)), View(zoom=0.5), View(shift=(0.5, 0.5))],
)
def test_what_lies_outside_is_reflected(view):
    assert resample_view(np.full((2 * SIDE, 2 * SIDE, 3), 200, np.uint8), view).min() == 200


def test_the_ranges_are_covered_and_kept():
    jitter = Jitter(turn=10.0, zoom=0.2, shift=0.05)
    views = [jitter.draw(np.random.default_rng(i)) for i in range(400)]
    drawn = np.array([(view.angle, view.zoom - 1, *view.shift) for view in views])
    largest = np.array([10.0, 0.2, 0.05, 0.05])
    assert (np.abs(drawn) <= largest).all()
    assert (drawn.max(axis=0) > 0.95 * largest).all()
    assert (drawn.min(axis=0) < -0.95 * largest).all()
    assert 0.4 < np.mean([view.mirrored for view in views]) < 0.6


@pytest.mark.parametrize("name", ["turn", "zoom", "shift"])
@pytest.mark.parametrize("value", [-0.1, 181.0, float("nan")])
def test_a_range_out_of_bounds_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"data\.{name} must be within"):
        Jitter(**{name: value})


def take(stream, count):
    with contextlib.closing(stream):
        return [next(stream) for _ in range(count)]


class Spots:
    """Pictures with a spot of its own each."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return {"image": spot(10 * index - 25, 5), "name": str(index)}


def test_every_epoch_has_new_views_and_a_resumed_stream_the_same():
    jitter = Jitter(flip=False, turn=10.0, shift=0.05)
    steps = take(batches(Spots(), batch_size=6, seed=0, jitter=jitter), 4)
    assert steps[0]["image"].shape == (6, SIDE, SIDE, 3)
    first, second = (step["image"][np.argsort(step["index"])].astype(int) for step in steps[:2])
    assert (np.abs(first - second).max(axis=(1, 2, 3)) > 20).all()
    resumed = take(batches(Spots(), batch_size=6, seed=0, jitter=jitter, start_step=3), 1)
    np.testing.assert_array_equal(resumed[0]["image"], steps[3]["image"])


def test_codes_refuse_resampled_views():
    class Coded(Spots):
        def __getitem__(self, index):
            return {**super().__getitem__(index), "codes": np.zeros((2, 4), np.int32)}

    with pytest.raises(ValueError, match=r"data\.codes are those of the pictures as they are"):
        batches(Coded(), batch_size=2, seed=0, jitter=Jitter(turn=1.0))


def test_settings_open_a_larger_source_only_for_resampled_views():
    data = ml_collections.ConfigDict({"flip": True, "image_size": SIDE})
    assert oversampled(data) is data  # The settings of older runs lack the ranges.
    data.zoom = 0.1
    assert oversampled(data).image_size == 2 * SIDE
    assert data.image_size == SIDE


def test_the_ranges_are_those_of_the_settings():
    rules = {name: settings.RULES[f"data.{name}"] for name in ("turn", "zoom", "shift")}
    for name, largest in (("turn", 180.0), ("zoom", 0.5), ("shift", 0.5)):
        assert rules[name].accepts(largest)
        assert not rules[name].accepts(largest + 0.01)
        Jitter(**{name: largest})
