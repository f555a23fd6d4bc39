"""Starts from other networks: another image size, a discriminator of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config

from codeformer_jax.nn import LPIPS, STLPIPS, PatchDiscriminator
from codeformer_jax.tasks import common, make_task

IMAGES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8))


def config_of(size):
    """A tiny stage III; its fusions and attention lie on the same levels at every size."""
    config = tiny_config("restoration").unlock()
    config.model.image_size = config.data.image_size = size
    config.model.attn_resolutions = (size // 2,)
    config.codeformer.connect_list = (size // 2, size)
    return config.lock()


def random_like(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(0.1 * rng.standard_normal(x.shape), x.dtype), tree)


def test_a_codeformer_starts_at_another_size_as_it_would_run_there(caplog):
    task, larger = make_task(config_of(32)), make_task(config_of(64))
    small = IMAGES[:, :32, :32]
    state = jax.eval_shape(lambda k, x: task.init(k, x, None), jax.random.key(0), small)
    previous = {"params": random_like(state.params)}
    started = jax.jit(larger.init)(jax.random.key(0), IMAGES, previous)
    told = "of a 16x16 map (image_size=32), are interpolated to 32x32 for model.image_size=64"
    assert told in caplog.text
    assert started.params["position_emb"].shape == (32 * 32, 16)
    real = common.from_uint8(IMAGES)
    run = lambda module: jax.jit(lambda v: module.apply(v, real, w=1.0).image)  # noqa: E731
    found = run(larger.module)({"params": started.params})
    np.testing.assert_allclose(found, run(task.module)(previous), atol=1e-5)


def test_the_same_size_is_taken_as_it_is_and_says_nothing(caplog):
    task = make_task(config_of(32))
    small = IMAGES[:, :32, :32]
    abstract = jax.eval_shape(lambda k, x: task.init(k, x, None), jax.random.key(0), small)
    previous = {"params": abstract.params}
    jax.eval_shape(task.init, jax.random.key(0), small, previous)
    assert "interpolated" not in caplog.text
    # Positions that are no square map are refused as any other shape.
    odd = {**abstract.params, "position_emb": jax.ShapeDtypeStruct((5, 16), jnp.float32)}
    with pytest.raises(ValueError, match=r"position_emb: shape \(5, 16\), expected \(256, 16\)"):
        jax.eval_shape(task.init, jax.random.key(0), small, {"params": odd})


@pytest.mark.parametrize("stage", ["vqgan", "restoration"])
def test_a_discriminator_starts_from_another(stage):
    task = make_task(tiny_config(stage))
    small = IMAGES[:, :32, :32]
    given = jax.eval_shape(
        lambda key: PatchDiscriminator(ndf=4, n_layers=1).init(
            key, jnp.zeros((1, 32, 32, 3)), train=False
        ),
        jax.random.key(0),
    )
    given = random_like(given, seed=1)

    def init(given):
        state = task.init(jax.random.key(0), small, None)
        return common.start_discriminator(state, given)

    plain = jax.eval_shape(init, None)
    started = common.start_discriminator(plain, given)
    for name in ("params", "batch_stats"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(started.discriminator, name), given[name]
        )
    assert started.discriminator.opt_state is plain.discriminator.opt_state
    assert started.params is plain.params
    wider = PatchDiscriminator(ndf=8, n_layers=1)
    other = jax.eval_shape(
        lambda key: wider.init(key, jnp.zeros((1, 32, 32, 3)), train=False), jax.random.key(0)
    )
    message = r"init_discriminator_from: the discriminator does not fit this config (.|\n)*main_0/"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(init, other)


def test_a_task_without_a_discriminator_takes_none():
    task = make_task(tiny_config("code_prediction"))
    small = IMAGES[:, :32, :32]
    state = jax.eval_shape(lambda k, x: task.init(k, x, None), jax.random.key(0), small)
    with pytest.raises(ValueError, match="init_discriminator_from is set for a task without"):
        common.start_discriminator(state, {})


@pytest.mark.parametrize("network", [LPIPS(), LPIPS(net="alex"), STLPIPS(), STLPIPS(net="vgg")])
def test_the_perceptual_loss_is_that_of_its_weights(network):
    config = tiny_config("vqgan").unlock()
    config.loss.perceptual_weight = 1.0
    task = make_task(config)
    real = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    weights = jax.eval_shape(network.init, jax.random.key(0), real, real)
    total, metrics = jax.eval_shape(
        task.image_losses._reconstruction, real, real, {"lpips": weights}
    )
    assert total.shape == metrics["perceptual"].shape == ()
