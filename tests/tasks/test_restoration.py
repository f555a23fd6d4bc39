"""Stage III: what its steps train, and what its schedule says of every step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stepping import changed, run, start
from tiny import tiny_config

from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.tasks import common, make_task
from codeformer_jax.tasks.code_task import CODE_PATH
from codeformer_jax.tasks.restoration import Row
from configs import codeformer_stage3


@pytest.fixture(scope="module")
def images():
    source = SyntheticFaces("train", 32, 8)
    return np.stack([source[i]["image"] for i in range(8)])


@pytest.mark.slow
def test_stage3_image_losses_train_the_fusion_alone(images):
    config = tiny_config("restoration", steps=15).unlock()
    config.loss.feature_weight = config.loss.cross_entropy_weight = 0.0
    task, state, frozen = start(config, images)
    after, history = run(task, state, frozen, images, 15)
    assert changed(state.params, after.params) == {"fuse_convs_dict_16", "fuse_convs_dict_32"}
    assert history[-1]["l1"] < history[0]["l1"]


@pytest.mark.slow
def test_stage3_runs_every_boundary_of_its_schedule(images):
    """The published schedule fails at the first step of its third phase."""
    config = tiny_config("restoration", steps=11).unlock()
    small, large = {"recipe": "small"}, {"recipe": "large"}
    config.loss.gan_start = 1
    config.schedule = (
        {"until": 2, "w": 1.0, "image_losses": True, **small},
        {"until": 4, "w": 1.3, "image_losses": True, **small},
        {"until": 6, "w": 0.0, "image_losses": False, **large},
        {"until": 10, "w": 1.3, "image_losses": True, "every": 3, **small},
        {"until": 10, "w": 0.0, "image_losses": False, **large},
        {"until": 11, "w": 1.3, "image_losses": True, "code_recipe": "large", **small},
    )
    task, state, frozen = start(config, images)
    after, history = run(task, state, frozen, images, 11)
    assert ["l1" in metrics for metrics in history] == [
        *[True] * 4,
        *[False] * 4,
        True,
        False,
        True,
    ]
    assert int(after.step) == 11
    assert ["gan" in metrics for metrics in history][:3] == [False, True, True]


@pytest.mark.slow
@pytest.mark.parametrize("advance", ["reached", "all"])
def test_stage3_steps_for_the_codes_alone_leave_the_fusion_blocks(images, advance):
    """Parameters and moments, bit for bit; `advance='all'` is the published drift."""
    config = tiny_config("restoration", steps=6).unlock()
    config.optimizer.update(advance=advance, warmup_steps=0, name="adamw", weight_decay=0.01)
    config.schedule = (
        {"until": 6, "w": 1.0, "recipe": "small", "image_losses": True, "every": 3},
        {"until": 6, "w": 0.0, "recipe": "large", "image_losses": False},
    )
    task, state, frozen = start(config, images)
    fusion = {"fuse_convs_dict_16", "fuse_convs_dict_32"}
    for step in range(6):
        before = state
        state, (metrics,) = run(task, before, frozen, images, 1)
        moved = changed(before.params, state.params)
        assert set(common.select(before.params, CODE_PATH)) <= moved
        assert task.phase(step).fused_steps == step // 3
        if task.phase(step).image_losses:
            assert fusion <= moved
            assert "grad_norm_fusion" in metrics
            continue
        # Before the first image step there is no momentum, but decay shrinks what is not zero.
        assert bool(fusion & moved) == (advance == "all")
        for moments in ("mu", "nu"):
            old, new = (getattr(s.opt_state[1], moments) for s in (before, state))
            drifts = advance == "all" and step > 2
            assert bool(fusion & changed(old, new)) == drifts
        assert not changed({"d": before.discriminator}, {"d": state.discriminator})
        # The average still follows, as PyTorch's does.
        if step > 2:
            assert fusion <= changed(before.ema_params, state.ema_params)


@pytest.fixture(scope="module")
def published():
    return make_task(codeformer_stage3.get_config())


@pytest.mark.parametrize(
    ("step", "w", "recipe", "image_losses", "gan"),
    [
        (0, 1.0, "small", True, False),
        (4_999, 1.0, "small", True, False),
        (5_000, 1.0, "small", True, True),
        (39_999, 1.0, "small", True, True),
        (40_000, 1.3, "small", True, True),
        (79_999, 1.3, "small", True, True),
        (80_000, 0.0, "large", False, False),
        (119_999, 0.0, "large", False, False),
        (120_000, 0.0, "large", False, False),
        (120_014, 1.3, "small", True, True),
        (120_015, 0.0, "large", False, False),
        (149_999, 1.3, "small", True, True),
    ],
)
def test_published_stage3_schedule(published, step, w, recipe, image_losses, gan):
    phase = published.phase(step)
    assert (phase.w, phase.image_losses, phase.gan) == (w, image_losses, gan)
    assert phase.recipe is published.recipes[recipe]


def two_recipes(steps=6):
    """Rows that take turns, the published last phase, and both recipes in one step."""
    config = tiny_config("restoration", steps=steps).unlock()
    config.loss.gan_start = 100
    small, large = {"recipe": "small"}, {"recipe": "large"}
    config.degradation.large = {**config.degradation.large.to_dict(), "noise": (40.0, 40.0)}
    config.schedule = (
        {"until": 2, "w": 1.0, "image_losses": True, **small},
        {"until": 5, "w": 1.3, "image_losses": True, "every": 2, **small},
        {"until": 5, "w": 0.0, "image_losses": False, **large},
        {"until": 6, "w": 1.3, "image_losses": True, "code_recipe": "large", **small},
    )
    return config


def draw(task, real, key, phase):
    """Degraded images of a step with this key, and those that its codes learn from."""
    return task.inputs(real, task.keys(key, len(real), phase), phase)


def test_every_phase_degrades_by_its_own_recipe_and_keys(images):
    task = make_task(two_recipes())
    real = common.from_uint8(jnp.asarray(images))
    inputs = jax.jit(lambda real, key, phase: draw(task, real, key, phase))
    seen = []
    for step, recipe in enumerate(("small", "small", "large", "small", "large", "small")):
        key = jax.random.fold_in(jax.random.key(1), step)
        degraded, coded = inputs(real, key, task.phase(step))
        keys = jax.random.split(key, len(images))
        expected = jax.jit(task.degrade)(real, keys, task.recipes[recipe])
        assert np.mean(np.abs(degraded - expected)) < 1e-3, step
        seen += [degraded] if coded is None else [degraded, coded]
        assert (coded is not None) == (step == 5)
    # Seven degradations of the same images: no two share their noise or parameters.
    errors = np.array([np.ravel(x - real) for x in seen])
    assert np.abs(errors).mean(1).min() > 0.01
    assert len(np.unique(errors.round(5), axis=0)) == 7


def test_one_image_under_two_recipes_in_one_step_is_two_independent_draws(images):
    config = two_recipes()
    # Nothing but noise, as strong in both: what is alike in the two could only come of shared keys.
    noise = {"blur_sigma": (0.01, 0.01), "downsample": (1.0, 1.0), "noise": (20.0, 20.0)}
    for name in ("small", "large"):
        config.degradation[name] = {**noise, "jpeg_quality": (100.0, 100.0)}
    task = make_task(config)
    real = jnp.zeros(images.shape, jnp.float32)
    for_images, for_codes = draw(task, real, jax.random.key(4), task.phase(5))
    one, two = np.ravel(for_images), np.ravel(for_codes)
    assert min(one.std(), two.std()) > 0.1
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.02
    # Nor is one image's draw another's.
    between = np.corrcoef(np.concatenate([for_images, for_codes]).reshape(2 * len(images), -1))
    assert np.abs(between - np.eye(2 * len(images))).max() < 0.1


@pytest.mark.slow
def test_codes_learn_from_their_own_degradation_in_a_step_with_two(images):
    config = two_recipes()
    alone = config.copy_and_resolve_references()
    # The codes' losses of a step whose only recipe is the codes', with the codes' keys.
    config.schedule = ({**config.schedule[3], "until": 6},)
    alone.schedule = ({"until": 6, "w": 0.0, "recipe": "large", "image_losses": False},)
    task, state, frozen = start(config, images)
    key = jax.random.key(9)
    phase = task.phase(0)
    _, both = jax.jit(task.train_step)(state, frozen, images, key, phase)
    assert {"l1", "cross_entropy", "feature"} <= both.keys()

    other = make_task(alone)
    real = common.from_uint8(jnp.asarray(images))
    coded = jax.jit(lambda *arguments: draw(task, *arguments))(real, key, phase)[1]
    other.degrade = lambda real, keys, recipe: coded
    _, expected = jax.jit(other.train_step)(state, frozen, images, key, other.phase(0))
    for name in ("cross_entropy", "feature", "accuracy"):
        np.testing.assert_allclose(both[name], expected[name], rtol=1e-4)


def test_schedule_faults_are_refused():
    with pytest.raises(ValueError, match="image losses train the fusion blocks, which w = 0"):
        Row(until=10, w=0.0, recipe="large", image_losses=True)
    with pytest.raises(ValueError, match="name their degradation in 'recipe'"):
        Row(until=10, w=0.0, recipe="large", image_losses=False, code_recipe="small")
    config = tiny_config("restoration", steps=10).unlock()
    row = {"until": 9, "w": 1.0, "recipe": "small", "image_losses": True}
    config.schedule = (row,)
    with pytest.raises(ValueError, match=r"the schedule ends before config.steps = 10"):
        make_task(config)
    config.schedule = ({**row, "weight": 1.0},)
    with pytest.raises(ValueError, match=r"'weight'.*; a row has until, w, recipe, "):
        make_task(config)
    config.schedule = ({**row, "recipe": "tiny"},)
    with pytest.raises(ValueError, match=r"unknown recipe; config.degradation has"):
        make_task(config)
    config.schedule = ({**row, "code_recipe": "tiny"},)
    with pytest.raises(ValueError, match=r"unknown recipe; config.degradation has"):
        make_task(config)
    config.codeformer.connect_list = ()
    with pytest.raises(ValueError, match="connect_list is empty"):
        make_task(config)


@pytest.mark.slow
def test_steps_without_image_losses_do_not_compute_the_generator(images):
    config = tiny_config("restoration").unlock()
    row = {"w": 0.0, "recipe": "small", "image_losses": False}
    config.schedule = ({"until": 1, **row}, {"until": 4, **row, "w": 1.0, "image_losses": True})
    config.loss.gan_start = 100
    task, state, frozen = start(config, images)

    def flops(step):
        lowered = jax.jit(task.train_step).lower(
            state, frozen, images, jax.random.key(0), task.phase(step)
        )
        return lowered.compile().cost_analysis()["flops"]

    generator = jax.jit(task.module.apply, static_argnames="w").lower(
        {"params": state.params}, common.from_uint8(jnp.asarray(images)), w=1.0
    )
    assert flops(0) < flops(1) - generator.compile().cost_analysis()["flops"]
