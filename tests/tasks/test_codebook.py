"""Start of codes, and settings of Gumbel codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stepping import start
from tiny import tiny_config

from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.tasks import common, make_task


@pytest.fixture(scope="module")
def images():
    source = SyntheticFaces("train", 32, 8)
    return np.stack([source[i]["image"] for i in range(8)])


@pytest.mark.slow
def test_codes_start_from_latents_or_uniform(images):
    config = tiny_config("vqgan").unlock()
    config.model.ema_decay = None
    _, state, _ = start(config, images)
    codes = np.asarray(state.params["quantize"]["embedding"])
    module = make_task(config).module
    real = common.from_uint8(jnp.asarray(images))
    latents = np.asarray(module.apply({"params": state.params}, real).latents).reshape(-1, 8)
    distances = np.abs(codes[:, None] - latents[None]).max(-1).min(1)
    np.testing.assert_allclose(distances, 0, atol=1e-5)
    config.codebook_init = "uniform"
    _, state, _ = start(config, images)
    assert np.abs(state.params["quantize"]["embedding"]).max() <= 1 / 16
    config.codebook_init = "zeros"
    with pytest.raises(ValueError, match="codebook_init='zeros' must be one of latents, uniform"):
        make_task(config)


@pytest.mark.slow
def test_codes_start_from_as_many_images_as_give_a_latent_for_each(images):
    """Eight at least, and the same ones on any mesh: more images in the batch change nothing."""
    config = tiny_config("vqgan").unlock()
    config.model.update(ema_decay=None, image_size=8, codebook_size=200)
    config.model.attn_resolutions = ()
    many = np.random.default_rng(0).integers(0, 255, (32, 8, 8, 3), np.uint8)
    task = make_task(config)
    init = jax.jit(lambda x: task.init(jax.random.key(0), x, None).params["quantize"]["embedding"])
    codes = init(many)
    # Latents of 4x4 sites: thirteen images.
    np.testing.assert_allclose(init(many[:13]), codes, atol=1e-6)
    assert np.abs(init(many[:12]) - codes).max() > 1e-3
    rows = jax.sharding.PartitionSpec("data")
    for devices in (2, 8):
        mesh = jax.make_mesh(
            (devices,),
            ("data",),
            devices=jax.devices()[:devices],
            axis_types=(jax.sharding.AxisType.Auto,),
        )
        split = jax.device_put(many, jax.sharding.NamedSharding(mesh, rows))
        np.testing.assert_allclose(init(split), codes, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("straight_through", [True, False])
def test_gumbel_follows_its_settings(images, straight_through):
    config = tiny_config("vqgan", steps=8).unlock()
    config.model.update(quantizer="gumbel", ema_decay=None, restart_below=0.0)
    config.model.update(straight_through=straight_through, kl_weight=0.5)
    config.model.update(temperature=1.0, temperature_final=0.25, temperature_steps=2)
    config.loss.gan_start = 100
    task, state, frozen = start(config, images)
    assert (task.module.straight_through, task.module.kl_weight) == (straight_through, 0.5)
    step, seen = jax.jit(task.train_step), []
    apply = jax.jit(task.module.apply, static_argnames="method")
    for i in range(4):
        key = jax.random.fold_in(jax.random.key(1), i)
        before = state
        state, metrics = step(state, frozen, images, key, task.phase(i))
        seen.append(float(metrics["temperature"]))
        # What the step saw is the network with noise at this temperature.
        output = apply(
            {"params": before.params},
            common.from_uint8(jnp.asarray(images)),
            noise_keys=jax.random.split(key, len(images)),
            temperature=seen[-1],
        )
        codes = before.params["quantize"]["embed"][output.indices].reshape(output.latents.shape)
        hard = np.allclose(output.quantized.latents, codes, atol=1e-4)
        assert hard == straight_through
        l1 = jnp.mean(jnp.abs(output.image - common.from_uint8(jnp.asarray(images))))
        np.testing.assert_allclose(metrics["l1"], l1, rtol=1e-3)
    np.testing.assert_allclose(seen, [1.0, 0.625, 0.25, 0.25], rtol=1e-6)
    assert step._cache_size() == 1
    # Evaluation is without noise and with hard codes.
    keys = jax.random.split(jax.random.key(0), len(images))
    result = jax.jit(task.eval_step)(state, frozen, images, keys)
    encoded = apply(state.variables(), common.from_uint8(jnp.asarray(images)), method="encode")
    np.testing.assert_array_equal(result.indices, encoded.indices)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(None, 0.9), (0.9, None)])
def test_stage1_starts_from_a_vqgan_with_either_codebook(images, before, after):
    config = tiny_config("vqgan").unlock()
    config.model.ema_decay = before
    _, state, _ = start(config, images)
    config.model.ema_decay = after
    _, new, _ = start(config, images, previous=state.variables())
    codes = common.plain_codebook(state.variables())["quantize"]["embedding"]
    np.testing.assert_array_equal(
        common.plain_codebook(new.variables())["quantize"]["embedding"], codes
    )
    config.model.codebook_size = 8
    with pytest.raises(ValueError, match=r"embedding: shape \(16, 8\), expected \(8, 8\)"):
        start(config, images, previous=state.variables())
