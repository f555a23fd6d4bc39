"""Every config in configs/ builds its task; the published ones have the published sizes."""

import functools
import importlib.util
from operator import getitem
from pathlib import Path

import jax
import numpy as np
import pytest

from codeformer_jax.checkpoints.workdir import abstract_state
from codeformer_jax.degrade import Recipe
from codeformer_jax.nn import PixelCNN
from codeformer_jax.tasks import make_task, settings

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "configs").rglob("*.py"))
STAGES = ("vqgan", "code_prediction", "restoration")
ARGUMENTS = {
    "configs/demo.py": [(f"{stage},{size}",) for stage in STAGES for size in ("full", "short")],
    "configs/photos128.py": [
        (f"{stage},{size}",) for stage in (*STAGES, "finetuning") for size in ("full", "short")
    ],
    "configs/gpt_faces.py": [("published",), ("small",)],
    "configs/pixelcnn_faces.py": [("vqvae",), ("vqgan",)],
}


def load(path, arguments=()):
    spec = importlib.util.spec_from_file_location("config", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*arguments)


@functools.cache
def built(path, arguments):
    """A config's task and the shapes of its first state."""
    config = load(path, arguments)
    task = make_task(config)
    return task, abstract_state(task, config)


def image_size(task):
    """For which the networks of a task are made."""
    if isinstance(task.module, PixelCNN) and not task.needs_teacher:
        return task.module.map_size
    module = task.teacher if task.needs_teacher else task.module
    return module.image_size


EVERY = pytest.mark.parametrize(
    ("path", "arguments"), [(p, a) for p in CONFIGS for a in ARGUMENTS.get(p, [()])]
)


def is_number(config, name, value):
    """Whether a setting is a number, some numbers, or None in place of a number."""
    if isinstance(value, tuple):
        return any(isinstance(each, int | float) for each in value)
    if value is None:
        *sections, last = name.split(".")
        return functools.reduce(getitem, sections, config).get_type(last) in (int, float)
    return isinstance(value, int | float) and not isinstance(value, bool)


@EVERY
def test_every_number_has_a_range_and_the_value_is_in_it(path, arguments):
    """Recipes have theirs in `degrade.ranges`, which knows no name without one."""
    config = load(path, arguments)
    settings.check(config)
    without = {
        name
        for name, value in settings.leaves(config)
        if is_number(config, name, value)
        and not name.startswith("degradation.")
        and settings.row_of(name) not in settings.RULES
    }
    assert not without, f"give each a row in tasks/settings.py: {sorted(without)}"


@EVERY
def test_every_config_builds_its_task(path, arguments):
    config = load(path, arguments)
    assert config.is_locked
    task, state = built(path, arguments)
    assert config.data.image_size == image_size(task)
    for step in (0, config.steps // 2, config.steps - 1):
        task.phase(step)
    assert {"params", "ema_params"} <= vars(state).keys()


@pytest.mark.parametrize(
    ("path", "keep_gray", "keep_known"),
    [
        ("configs/codeformer_stage3.py", True, False),
        ("configs/codeformer_colorization.py", False, False),
        ("configs/codeformer_inpainting.py", True, True),
    ],
)
def test_networks_say_how_their_results_are_used(path, keep_gray, keep_known):
    module = built(path, ())[0].module
    assert (module.keep_gray, module.keep_known) == (keep_gray, keep_known)


@pytest.mark.parametrize(
    ("path", "millions"), [("configs/vqgan.py", 63.74), ("configs/codeformer_stage3.py", 94.11)]
)
def test_published_number_of_parameters(path, millions):
    _, state = built(path, ())
    count = sum(np.prod(x.shape) for x in jax.tree.leaves(state.params))
    assert count / 1e6 == pytest.approx(millions, abs=0.005)


def test_reference_configs_have_the_published_faults():
    stage1, stage3 = (
        load("configs/reference/vqgan.py"),
        load("configs/reference/codeformer_stage3.py"),
    )
    assert (stage1.model.beta_on, stage1.codebook_init) == ("codebook", "uniform")
    assert stage1.loss.lpips_normalize_twice
    assert (stage1.model.straight_through, stage1.model.kl_weight) == (False, 1e-8)
    assert (stage1.model.temperature, stage1.model.temperature_steps) == (1.0, 0)
    assert stage3.loss.lpips_normalize_twice
    assert not stage3.codeformer.fusion_zero_init
    assert stage3.optimizer.advance == "all"
    assert stage1.loss.statistics_groups == stage3.loss.statistics_groups == 8


@pytest.mark.parametrize(
    ("path", "section", "name"),
    [
        ("configs/codeformer_stage2.py", "large", "large"),
        ("configs/codeformer_stage3.py", "small", "small"),
        ("configs/codeformer_inpainting.py", "inpainting", "inpainting"),
        ("configs/codeformer_colorization.py", "large", "colorization"),
    ],
)
def test_configs_degrade_as_the_recipes_of_that_name(path, section, name):
    ours, named = Recipe.from_config(load(path).degradation[section]), Recipe.named(name)
    assert jax.tree.structure(ours) == jax.tree.structure(named)
    for left, right in zip(*map(jax.tree.leaves, (ours, named)), strict=True):
        np.testing.assert_array_equal(left, right)


def test_cifar10_is_scored_on_all_its_test_pictures():
    config = load("configs/pixelcnn_cifar10.py")
    assert config.eval.batches * config.eval.batch_size >= 10_000


def test_inpainting_fuses_up_to_128_px_and_always_at_w_1():
    config = load("configs/codeformer_inpainting.py")
    task, _ = built("configs/codeformer_inpainting.py", ())
    assert task.module.connect_list == (32, 64, 128)
    for step in (0, config.steps - 1):
        phase = task.phase(step)
        assert (phase.w, phase.image_losses) == (1.0, True)
        assert phase.recipe is task.recipes["inpainting"]


@pytest.mark.parametrize("path", ["configs/demo.py", "configs/photos128.py"])
@pytest.mark.parametrize("argument", ["stage4", "vqgan,long"])
def test_unknown_stage_or_size_names_the_known_ones(path, argument):
    with pytest.raises(ValueError, match=r"a stage of vqgan, .* and a size of full, short"):
        load(path, (argument,))


def test_unknown_autoencoder_of_a_prior_names_the_known_ones():
    with pytest.raises(ValueError, match=r"pixelcnn_faces\.py:gan names no autoencoder"):
        load("configs/pixelcnn_faces.py", ("gan",))
