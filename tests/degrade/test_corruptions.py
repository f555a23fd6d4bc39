"""A corruption from outside the package, and the form in which manifests store recipes."""

from typing import ClassVar
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax import degrade
from codeformer_jax.degrade import CORRUPTIONS, Corruption, Recipe, probability, within

SIZE = 32
IMAGES = jax.random.uniform(jax.random.key(0), (2, SIZE, SIZE, 3))
KEYS = jax.random.split(jax.random.key(1), 2)


class Vignette(Corruption):
    settings: ClassVar = {
        "probability": (probability, 0.5),
        "strength": (within(0.0, 1.0), (0.2, 0.8)),
    }

    def draw(self, key, ranges, image_size):
        chance, value = jax.random.split(key)
        chosen = jax.random.uniform(chance) < ranges["probability"]
        strength = jax.random.uniform(value, (), jnp.float32, *ranges["strength"])
        return jnp.where(chosen, strength, 0.0)

    def apply(self, images, drawn):
        square = jnp.linspace(-1.0, 1.0, images.shape[1]) ** 2
        corner = (square[None, :, None, None] + square[None, None, :, None]) / 2
        return images * (1.0 - drawn[:, None, None, None] * corner)

    def words(self, drawn):
        return [f"vignette {drawn:.1f}"] if drawn else []


@pytest.fixture(autouse=True)
def vignette():
    """A corruption that is registered for one test."""
    with mock.patch.dict(CORRUPTIONS):
        yield CORRUPTIONS.register("vignette")(Vignette)


def drawn_with(config):
    recipe = Recipe.from_config({"kind": "clean", **config})
    return recipe, jax.vmap(lambda key: degrade.draw(key, recipe, SIZE))(KEYS)


def test_a_registered_corruption_is_drawn_applied_and_described():
    given = {"probability": 1.0, "strength": (0.5, 0.75)}
    recipe, drawn = drawn_with({"vignette": given})
    strength = drawn.corruptions["vignette"]
    assert np.all((strength >= 0.5) & (strength < 0.75))
    assert strength[0] != strength[1]
    degraded = jax.jit(degrade.apply)(IMAGES, drawn, None)
    corner = IMAGES[:, 0, -1] * (1 - strength[:, None])
    np.testing.assert_allclose(degraded[:, 0, -1], corner, atol=0.51 / 255)
    one = jax.tree.map(lambda x: x[0], drawn)
    assert degrade.describe(one, SIZE) == [f"vignette {strength[0]:.1f}"]
    assert degrade.manifest_fields(recipe)["vignette"]["strength"].shape == (2,)


def test_another_corruption_changes_no_draw():
    shift = {"colour_shift": {"probability": 1.0}}
    both, alone = (
        drawn_with(config)[1].corruptions for config in ({"vignette": {}} | shift, shift)
    )
    np.testing.assert_array_equal(both["colour_shift"], alone["colour_shift"])


def test_a_taken_name_and_an_unknown_setting_are_refused(vignette):
    with pytest.raises(ValueError, match="corruption='gray' is registered already"):
        CORRUPTIONS.register("gray")(vignette)
    with pytest.raises(ValueError, match=r"vignette may have \['probability', 'strength'\]"):
        Recipe.from_config({"kind": "clean", "vignette": {"speed": 1}})


def test_manifests_keep_their_fields():
    """Their hash identifies a test set, so names that were null in 1.0 stay so."""
    off = {"motion_blur", "colour_shift", "gray", "colour_jitter", "mask"}
    fields = degrade.manifest_fields(Recipe.named("celeba-test"))
    assert off | {"second_order"} == {name for name, value in fields.items() if value is None}
    recipe = Recipe.named("colorization")
    assert degrade.manifest_fields(recipe)["gray"] is recipe.corruptions["gray"]
    drawn = degrade.manifest_fields(degrade.draw(jax.random.key(0), Recipe.named("small"), 512))
    off = {"motion", "shift", "gray", "jitter", "strokes"}
    assert off | {"rounds"} == {name for name, value in drawn.items() if value is None}
