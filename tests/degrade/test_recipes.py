"""Kinds and sections that a config may have; what is off is not computed."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from codeformer_jax import degrade
from codeformer_jax.degrade import Recipe

BLIND = {
    "blur_sigma": (0.3, 2.0),
    "downsample": (1.0, 4.0),
    "noise": (0.0, 10.0),
    "jpeg_quality": (40, 90),
}
EXTRAS = {
    "motion_blur": {"probability": 0.5, "length": (2.0, 9.0)},
    "colour_shift": {"probability": 0.5, "shift": 20.0},
    "gray": 0.5,
    "colour_jitter": {"probability": 0.5},
    "mask": {"width": (2.0, 5.0), "length": (3.0, 9.0)},
}


@pytest.mark.parametrize("name", degrade.RECIPES)
def test_every_named_recipe_fits_a_config(name):
    config = ml_collections.ConfigDict(degrade.RECIPES[name])
    from_config, named = Recipe.from_config(config), Recipe.named(name)
    assert jax.tree.structure(from_config) == jax.tree.structure(named)
    for ours, theirs in zip(*map(jax.tree.leaves, (from_config, named)), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "sharp"}, "kind is 'sharp': expected one of blind, second_order, clean"),
        ({"kind": "clean", "noise": (0, 1)}, r"'clean' needs \[\].*unknown \['noise'\]"),
        ({"kind": "second_order"}, r"missing \['downsample'\], unknown \[\]"),
        (
            {"kind": "second_order", "downsample": (1, 4), "anisotropic": 0.5, "third": {}},
            r"unknown \['anisotropic', 'third'\]",
        ),
        ({**BLIND, "second": {}, "blur": 1}, r"unknown \['blur', 'second'\]"),
        ({**BLIND, "gray": 1.5}, r"gray is 1.5: expected a number in"),
        ({**BLIND, "gray": "often"}, r"gray is 'often': expected a number in"),
        ({**BLIND, "mask": True}, "mask is True: expected a section with"),
        ({**BLIND, "mask": {"strokes": (0, 3)}}, r"mask.strokes is \(0, 3\).*1 <= low"),
        ({**BLIND, "mask": {"strokes": (1, 2.5)}}, r"\(1, 2.5\): expected whole numbers"),
        ({**BLIND, "mask": {"count": 3}}, r"mask may have .*unknown \['count'\]"),
        ({**BLIND, "motion_blur": {"length": 3}}, "motion_blur.length is 3: expected"),
        ({**BLIND, "motion_blur": {"angle": 3}}, r"motion_blur may have .*unknown \['angle'\]"),
        ({**BLIND, "colour_shift": {"shift": 300}}, r"shift is 300: expected a number in \[0, 255"),
        ({**BLIND, "colour_jitter": {"hue": (-1, 1)}}, "colour_jitter.hue is .*-0.5 <= low"),
        (
            {"kind": "second_order", "downsample": (1, 4), "first": {"shapes": (0.5, 0.6, 0.1)}},
            "first.shapes is .*3 probabilities that sum to 1, of Gaussian",
        ),
        (
            {"kind": "second_order", "downsample": (1, 4), "second": {"scale": (0.1, 2.0)}},
            "second.scale is .*high <= 1.5",
        ),
        (
            {"kind": "second_order", "downsample": (1, 4), "second": {"sharpen": 1}},
            r"second may have .*unknown \['sharpen'\]",
        ),
        ({"kind": "second_order", "downsample": (1, 4), "jpeg_last": 2}, "jpeg_last is 2"),
    ],
)
def test_what_does_not_fit_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        Recipe.from_config(config)


def test_none_is_off():
    recipe = Recipe.from_config({**BLIND, "gray": None, "mask": None})
    assert jax.tree.structure(recipe) == jax.tree.structure(Recipe.from_config(BLIND))


@pytest.mark.parametrize("on", [(), ("gray",), ("motion_blur", "mask"), tuple(EXTRAS)])
def test_only_what_is_on_is_drawn(on):
    recipe = Recipe.from_config(BLIND | {name: EXTRAS[name] for name in on})
    drawn = jax.eval_shape(lambda key: degrade.draw(key, recipe, 64), jax.random.key(0))
    assert set(drawn.corruptions) == set(on)


def test_what_is_off_costs_nothing():
    def primitives(config):
        recipe, keys = Recipe.from_config(config), jax.random.split(jax.random.key(0), 2)
        run = jax.make_jaxpr(lambda x, k: degrade.degrade(x, k, recipe))
        return len(str(run(jnp.zeros((2, 32, 32, 3)), keys)))

    everything = primitives(BLIND | EXTRAS)
    for name in EXTRAS:
        without = {k: v for k, v in EXTRAS.items() if k != name}
        assert primitives(BLIND) < primitives(BLIND | without) < everything, name
    assert primitives({"kind": "clean"}) < primitives(BLIND) / 5


def test_other_numbers_do_not_recompile():
    run = jax.jit(degrade.degrade)
    images = jnp.full((2, 32, 32, 3), 0.5)
    keys = jax.random.split(jax.random.key(0), 2)
    one = Recipe.from_config({"kind": "clean", **EXTRAS})
    other = Recipe.from_config(
        {"kind": "clean", **EXTRAS, "gray": 0.0, "mask": {"strokes": (3, 8), "turn": (0, 9)}}
    )
    first = run(images, keys, one)
    compiled = run._cache_size()
    assert np.any(run(images, keys, other) != first)
    assert run._cache_size() == compiled
