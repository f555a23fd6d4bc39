"""Dead codes of a trained codebook: which start again, from what, and on how many devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config

from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.system import parallel
from codeformer_jax.tasks import make_task
from codeformer_jax.tasks.codebook import restart_dead_codes
from codeformer_jax.tasks.state import TrainState

CODES, SIZE = 8, 4
LATENTS = jax.random.normal(jax.random.key(0), (4, 4, 4, SIZE))
# Of 64 latents a code used by 1 % gets 0.64 per batch, one used by 0.1 % 0.064.
USAGE = jnp.array([0.5, 0.2, 0.001, 0.1, 0.0, 0.1, 0.01, 0.089])


def state():
    params = {
        "encoder": {"kernel": jnp.ones(3)},
        "quantize": {"embedding": jnp.arange(CODES * SIZE, dtype=jnp.float32).reshape(CODES, SIZE)},
    }
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(lambda x: x - 1, params),
        opt_state={},
        collections={},
        code_usage=USAGE,
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_row=jnp.zeros((), jnp.int32),
    )


def test_codes_hardly_used_become_latents_of_the_batch():
    before = state()
    after = restart_dead_codes(before, LATENTS, jax.random.key(1), below=0.1)
    dead = np.array([2, 4])
    others = np.setdiff1d(np.arange(CODES), dead)
    for part in ("params", "ema_params"):
        codes = np.asarray(getattr(after, part)["quantize"]["embedding"])
        old = np.asarray(getattr(before, part)["quantize"]["embedding"])
        np.testing.assert_array_equal(codes[others], old[others])
        distances = np.abs(codes[dead][:, None] - np.reshape(LATENTS, (1, -1, SIZE))).max(-1)
        np.testing.assert_array_equal(distances.min(1), 0)
        np.testing.assert_array_equal(
            getattr(after, part)["encoder"]["kernel"], getattr(before, part)["encoder"]["kernel"]
        )
    np.testing.assert_array_equal(
        after.params["quantize"]["embedding"][dead], after.ema_params["quantize"]["embedding"][dead]
    )
    np.testing.assert_allclose(after.code_usage[dead], 1 / CODES)
    np.testing.assert_array_equal(after.code_usage[others], USAGE[others])


@pytest.mark.parametrize("description", ["data:4", "data:2,fsdp:2", "fsdp:4"])
def test_the_draw_follows_from_the_key_on_any_number_of_devices(monkeypatch, description):
    """Also of a codebook that lies in parts on several."""
    monkeypatch.setattr(parallel, "MIN_SHARDED_SIZE", 8)
    mesh = parallel.make_mesh(description)
    sharding = parallel.state_sharding(mesh, state())
    in_parts = not sharding.params["quantize"]["embedding"].is_fully_replicated
    assert in_parts == ("fsdp" in description)
    restart = jax.jit(restart_dead_codes, static_argnames="below")

    def codes(seed, state, latents):
        key = jax.random.key(seed)
        return np.asarray(restart(state, latents, key, 0.1).params["quantize"]["embedding"])

    split = jax.device_put(LATENTS, parallel.batch_sharding(mesh))
    on_one = codes(1, state(), LATENTS)
    np.testing.assert_array_equal(codes(1, jax.device_put(state(), sharding), split), on_one)
    assert np.any(codes(2, state(), LATENTS) != on_one)


@pytest.mark.slow
def test_stage1_with_a_trained_codebook_restarts_dead_codes():
    config = tiny_config("vqgan").unlock()
    config.model.ema_decay = None
    config.model.restart_below = 0.1
    config.loss.gan_start = 100
    task = make_task(config)
    source = SyntheticFaces("train", 32, 4)
    images = np.stack([source[i]["image"] for i in range(4)])
    before = jax.jit(lambda k, i: task.init(k, i, None))(jax.random.key(0), images)
    # Too far away to be chosen, and unused for long.
    codes = before.params["quantize"]["embedding"].at[3].set(1e3)
    params = {**before.params, "quantize": {"embedding": codes}}
    before = before.replace(params=params, code_usage=before.code_usage.at[3].set(0.0))
    after, metrics = jax.jit(task.train_step)(before, {}, images, jax.random.key(1), task.phase(0))
    new = after.params["quantize"]["embedding"]
    assert np.abs(new[3]).max() < 100
    np.testing.assert_array_equal(new[3], after.ema_params["quantize"]["embedding"][3])
    np.testing.assert_allclose(after.code_usage[3], 1 / 16)
    assert metrics["dead_codes"] == 1
    assert np.abs(new - codes)[:3].max() < 0.1
