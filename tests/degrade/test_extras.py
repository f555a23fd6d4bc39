"""Each corruption against OpenCV or NumPy, and the laws of what is drawn over 10,000 images."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from parity.seeded import seeded_image

from codeformer_jax import degrade
from codeformer_jax.degrade import Recipe
from codeformer_jax.ops.masks import stroke_masks

RUN = jax.jit(degrade.degrade)
DRAW = jax.jit(jax.vmap(degrade.draw, in_axes=(0, None, None)), static_argnums=2)
SIZE = 64
IMAGES = np.round(np.stack([seeded_image(SIZE, SIZE, i) for i in range(6)]) * 255) / 255
KEYS = jax.random.split(jax.random.key(1), len(IMAGES))
BLIND = {
    "blur_sigma": (0.3, 2.0),
    "downsample": (1.0, 4.0),
    "noise": (0.0, 10.0),
    "jpeg_quality": (40, 90),
}
DRAWS = 10_000


def run(config):
    """Images of [0, 255] and what was drawn for them."""
    recipe = Recipe.from_config(config)
    streams = jax.vmap(jax.random.split)(KEYS)
    drawn = DRAW(streams[:, 0], recipe, SIZE)
    images = jnp.asarray(IMAGES, jnp.float32)
    return np.asarray(RUN(images, KEYS, recipe)) * 255, jax.tree.map(np.asarray, drawn)


def laws(name, section, size=512):
    """Values that the corruption `name` draws for `DRAWS` images."""
    recipe = Recipe.from_config({"kind": "clean", name: section})
    keys = jax.random.split(jax.random.key(7), DRAWS)
    drawn = jax.jit(jax.vmap(lambda key: degrade.draw(key, recipe, size).corruptions[name]))(keys)
    return jax.tree.map(np.asarray, drawn)


def assert_uniform(values, low, high):
    # With this seed; a wrong law of a hundredth of the range would give 1e-4 or less.
    assert scipy.stats.kstest(values, scipy.stats.uniform(low, high - low).cdf).pvalue > 1e-3


def assert_share(chosen, probability):
    deviation = np.sqrt(probability * (1 - probability) / len(chosen))
    assert abs(np.mean(chosen) - probability) <= 4 * deviation


def test_motion_blur_is_opencvs_filter():
    ours, drawn = run({"kind": "clean", "motion_blur": {"probability": 1, "length": (3, 30)}})
    for image, result, kernel in zip(
        IMAGES, ours, drawn.corruptions["motion_blur"]["kernel"], strict=True
    ):
        expected = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
        np.testing.assert_allclose(result, np.round(expected * 255), atol=1.001)
        assert np.mean(np.round(result) != np.round(expected * 255)) < 0.01


def test_motion_blur_comes_before_the_degradation():
    motion = {"motion_blur": {"probability": 1, "length": (3, 30)}}
    both, drawn = run(BLIND | motion)
    motion = drawn.corruptions["motion_blur"]
    assert np.ptp(motion["length"]) > 0
    recipe = Recipe.from_config(BLIND)
    blurred = np.stack(
        [
            cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
            for image, kernel in zip(
                IMAGES, drawn.corruptions["motion_blur"]["kernel"], strict=True
            )
        ]
    )
    expected = np.asarray(RUN(jnp.asarray(blurred, jnp.float32), KEYS, recipe)) * 255
    assert np.mean(np.abs(both - expected)) < 0.05


def test_colour_shift_adds_a_constant_to_each_channel():
    ours, drawn = run({"kind": "clean", "colour_shift": {"probability": 1, "shift": 40}})
    drawn = drawn.corruptions["colour_shift"]
    assert np.abs(drawn).max() <= 40 / 255
    assert len(np.unique(drawn)) == drawn.size
    expected = np.round(np.clip(IMAGES + drawn[:, None, None, :], 0, 1) * 255)
    np.testing.assert_allclose(ours, expected, atol=1e-3)


def test_gray_is_opencvs_to_a_rounding():
    ours, _ = run({"kind": "clean", "gray": 1.0})
    for image, result in zip(IMAGES, ours, strict=True):
        expected = cv2.cvtColor((image * 255).round().astype(np.uint8), cv2.COLOR_RGB2GRAY)
        assert np.abs(result - expected[..., None]).max() < 1.001
        assert np.all(result == result[..., :1])


def test_strokes_are_white_and_the_rest_is_kept():
    mask = {"strokes": (1, 3), "width": (4, 10), "length": (5, 30)}
    for base in ({"kind": "clean"}, BLIND):
        ours, drawn = run({**base, "mask": mask})
        strokes = drawn.corruptions["mask"]
        plain, _ = run(base)
        covered = np.asarray(
            stroke_masks(*map(jnp.asarray, (strokes["points"], strokes["width"])), (SIZE, SIZE))
        )
        assert np.all(ours[covered[..., 0] > 0] == 255)
        np.testing.assert_array_equal(
            np.where(covered > 0, 0, ours), np.where(covered > 0, 0, plain)
        )
        assert np.all(covered.any(axis=(1, 2, 3)))


def test_corruptions_that_pass_an_image_by_keep_every_bit():
    never = {"probability": 0.0}
    extras = {"colour_shift": never, "gray": 0.0, "colour_jitter": never}
    for base in ({"kind": "clean"}, BLIND):
        ours, _ = run({**base, **extras})
        np.testing.assert_array_equal(ours, run(base)[0])
    # The identity kernel goes through the filter, which may move a pixel by a rounding.
    ours, drawn = run({**BLIND, "motion_blur": never})
    assert not drawn.corruptions["motion_blur"]["length"].any()
    assert np.mean(np.abs(ours - run(BLIND)[0])) < 0.05


def test_two_recipes_make_two_independent_pictures_of_one_image():
    """Stage III degrades one image twice; two streams share neither parameters nor noise."""
    recipe = Recipe.from_config(BLIND | {"downsample": (1, 1), "jpeg_quality": (100, 100)})
    count = 300
    parents = jax.random.split(jax.random.key(3), 2)
    first, second = (DRAW(jax.random.split(parent, count), recipe, SIZE) for parent in parents)
    assert abs(np.corrcoef(first.noise_sigma, second.noise_sigma)[0, 1]) < 0.15
    assert abs(np.corrcoef(first.sigma_x, second.sigma_x)[0, 1]) < 0.15
    flat = jnp.full((2, SIZE, SIZE, 3), 0.5)
    fixed = Recipe.from_config(BLIND | {"noise": (10, 10), "jpeg_quality": (100, 100)})
    one, two = np.asarray(RUN(flat, parents, fixed)) - 0.5
    assert min(one.std(), two.std()) > 0.005
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.1


def test_motion_follows_its_law():
    given = {"probability": 0.4, "length": (5.0, 40.0)}
    length = laws("motion_blur", given)["length"]
    assert_share(length > 0, 0.4)
    assert_uniform(length[length > 0], 5, 40)


def test_colour_shift_follows_its_law():
    shift = laws("colour_shift", {"probability": 0.3, "shift": 20.0}) * 255
    chosen = np.any(shift != 0, axis=1)
    assert_share(chosen, 0.3)
    for channel in shift[chosen].T:
        assert_uniform(channel, -20, 20)
    correlation = np.corrcoef(shift[chosen].T)
    assert np.abs(correlation - np.eye(3)).max() < 0.06


def test_gray_follows_its_law():
    assert_share(laws("gray", 0.01), 0.01)


def test_colour_jitter_follows_its_law():
    drawn = laws("colour_jitter", degrade.RECIPES["colorization"]["colour_jitter"])
    chosen = drawn["hue"] != 0
    assert_share(chosen, 0.3)
    for name, low, high in (
        ("brightness", 0.5, 1.5),
        ("contrast", 0.5, 1.5),
        ("saturation", 0.0, 1.5),
        ("hue", -0.1, 0.1),
    ):
        values = drawn[name]
        assert_uniform(values[chosen], low, high)
        assert np.all(values[~chosen] == (0 if name == "hue" else 1))
    _, counts = np.unique(drawn["order"], axis=0, return_counts=True)
    assert len(counts) == 24
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_strokes_follow_their_law():
    drawn = laws("mask", degrade.RECIPES["inpainting"]["mask"])
    there = drawn["width"] >= 0
    _, counts = np.unique(there.sum(1), return_counts=True)
    assert len(counts) == 4
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    assert_uniform(drawn["width"][there], 24, 80)
    corners = 1 + (np.linalg.norm(np.diff(drawn["points"], axis=2), axis=-1) > 0).sum(-1)
    assert corners[there].min() >= 3  # Of four, one may have been clipped into a corner.
    assert corners[there].max() == 12


@pytest.mark.parametrize("size", [512, 1024])
def test_strokes_cover_what_the_documentation_states(size):
    mask = dict(degrade.RECIPES["inpainting"]["mask"])
    for name in ("width", "length"):
        mask[name] = tuple(value * size / 512 for value in mask[name])
    recipe = Recipe.from_config({"kind": "clean", "mask": mask})
    keys = jax.random.split(jax.random.key(5), 1000)

    @jax.jit
    def coverage(keys):
        strokes = jax.vmap(lambda key: degrade.draw(key, recipe, size).corruptions["mask"])(keys)
        scale = 64 / size
        masks = stroke_masks(strokes["points"] * scale, strokes["width"] * scale, (64, 64))
        return jnp.mean(masks, axis=(1, 2, 3))

    covered = np.concatenate([coverage(keys[i : i + 250]) for i in range(0, 1000, 250)])
    assert 0.16 < covered.mean() < 0.20
    low, high = np.quantile(covered, [0.05, 0.95])
    assert 0.03 < low < 0.06
    assert 0.3 < high < 0.4
    assert covered.min() > 0
