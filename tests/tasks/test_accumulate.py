"""A batch in slices gives the step of the batch at once; slices stay on their devices."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawn import drawn_state
from parity.steps import record
from tiny import tiny_config

from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.nn import PatchDiscriminator
from codeformer_jax.system import parallel
from codeformer_jax.tasks import accumulate, make_task


@pytest.fixture(scope="module")
def images():
    source = SyntheticFaces("train", 32, 8)
    return np.stack([source[i]["image"] for i in range(8)])


@pytest.fixture
def judge_without_batch_statistics(monkeypatch):
    """BatchNorm sees slices, which is documented; everything else has to be equal."""
    apply = PatchDiscriminator.apply

    def frozen_statistics(self, variables, images, *, train, mutable=False):
        logits = apply(self, variables, images, train=False)
        return (logits, {"batch_stats": variables["batch_stats"]}) if mutable else logits

    monkeypatch.setattr(PatchDiscriminator, "apply", frozen_statistics)


def config_of(stage, slices, **model):
    config = tiny_config(stage).unlock()
    config.data.batch_size = 8
    config.optimizer.accumulate = slices
    config.optimizer.clip_norm = 0.0
    if stage != "code_prediction":
        config.loss.adaptive_maximum = 1e4  # A lambda that is clipped tells nothing.
    config.model.update(model)
    if stage == "restoration":
        row = {"w": 1.0, "recipe": "small", "image_losses": True, "code_recipe": "large"}
        config.schedule = ({"until": 4, **row},)
    return config


def steps(config, images):
    """State and metrics after a step with the batch at once, and after one with it in slices.

    Both optimizers keep their gradients as they came.
    """
    results, state = [], None
    for slices in (1, config.optimizer.accumulate):
        config.optimizer.accumulate = slices
        task = make_task(config)
        record(task, optax.identity())
        if state is None:
            state = drawn_state(task, images)
        frozen = {}
        if task.needs_teacher:
            teacher = {name: state.params[name] for name in ("encoder", "quantize", "generator")}
            frozen = {"teacher": {"params": teacher}}
        step = jax.jit(task.train_step)
        results.append(step(state, frozen, images, jax.random.key(1), task.phase(0)))
    return results


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "model"),
    [
        ("vqgan", {"restart_below": 0.99}),
        pytest.param("vqgan", {"restart_below": 0.99, "ema_decay": None}, marks=pytest.mark.slow),
        pytest.param("vqgan", {"quantizer": "gumbel", "ema_decay": None}, marks=pytest.mark.slow),
        ("code_prediction", {}),
        ("restoration", {}),
    ],
)
def test_slices_give_the_step_of_the_whole_batch(
    images, judge_without_batch_statistics, stage, model
):
    results = steps(config_of(stage, 4, **model), images)
    (whole, whole_metrics), (sliced, metrics) = results
    assert metrics.keys() == whole_metrics.keys()
    if stage != "code_prediction":
        assert 0 < metrics["adaptive_weight"] < 1e4
    for name, value in whole_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-4, err_msg=name)
    ours, theirs = (
        [state.opt_state.gradients, state.collections, state.code_usage]
        + ([state.discriminator.opt_state.gradients] if state.discriminator else [])
        for state in (sliced, whole)
    )
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(theirs[0]))
    for left, right in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        size = max(float(jnp.abs(right).max()), 1e-3 * scale)
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-3 * size)


def test_batch_statistics_move_once_a_step_however_many_slices(images):
    config = tiny_config("vqgan").unlock()
    config.discriminator.update(ndf=4, n_layers=1)
    losses = make_task(config).image_losses
    real = jnp.asarray(images, jnp.float32) / 127.5 - 1
    variables = losses.discriminator.init(jax.random.key(0), real[:1], train=False)

    def measure(part):
        stats = losses._judge(variables["params"], variables["batch_stats"], part, -part)[0][1]
        return accumulate.Measured(means=stats, images={})

    run = jax.jit(partial(accumulate.measure, measure), static_argnums=1)
    whole, sliced = run(real, 1).means["main_3"], run(real, 4).means["main_3"]
    # Means of means are the batch's; variances miss what lies between the slices' means.
    np.testing.assert_allclose(sliced["mean"], whole["mean"], rtol=1e-4, atol=1e-6)
    assert np.all(sliced["var"] <= whole["var"] * 1.0001)
    assert np.all(sliced["var"] > 0.5 * whole["var"])


def test_split_and_join_are_inverse():
    x = jnp.arange(24).reshape(12, 2)
    parts = accumulate.split(x, 3)
    np.testing.assert_array_equal(parts[1, :, 0], [2, 8, 14, 20])
    np.testing.assert_array_equal(accumulate.join(parts), x)


def test_slices_do_not_move_between_devices():
    mesh = parallel.make_mesh("data:2,fsdp:2")
    images = jax.ShapeDtypeStruct((16, 8, 8, 3), jnp.uint8, sharding=parallel.batch_sharding(mesh))

    def measure(part):
        part = part.astype(jnp.float32)
        per_image = part.sum(axis=(1, 2, 3))
        return accumulate.Measured(means={"mean": part.mean()}, images={"sum": per_image})

    def collectives(slices):
        program = jax.jit(lambda x: accumulate.measure(measure, x, slices)).lower(images).compile()
        moves = r"(all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
        return set(re.findall(moves, program.as_text())), program.as_text()

    moved, text = collectives(4)
    assert not moved
    assert "all-reduce" in text
    # Slices of neighbouring images would have to travel: the check can see it.
    spread = jax.jit(lambda x: x.reshape(4, 4, 8, 8, 3)[1] * jnp.uint8(2)).lower(images).compile()
    assert re.search("all-gather|all-to-all|collective-permute|all-reduce", spread.as_text())


def test_slices_that_do_not_divide_the_batch():
    with pytest.raises(ValueError, match=r"accumulate=3 does not divide data\.batch_size="):
        make_task(config_of("vqgan", 3))


def test_slices_have_to_divide_each_devices_share():
    config = config_of("vqgan", 4)
    with pytest.raises(ValueError, match=r"over the 4 devices .* in optimizer.accumulate=4 slices"):
        parallel.check_batch(parallel.make_mesh("data:4"), config)
