"""The prior's task: it learns maps better than its baselines, and trains what it should."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_gpt

from codeformer_jax.tasks import common, gpt_prior, make_task

CODES = 16
SITES = 256  # 32 px, halved once.


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.RandomState(0).randint(0, 256, (4, 32, 32, 3), np.uint8))


def start(config, images):
    """Task, state and a random teacher; networks of one shape start alike, made once."""
    task = make_task(config)
    shape = (task.module.vocab_size, task.module.block_size)
    if shape not in _STARTED:
        _STARTED[shape] = jax.jit(task.init)(jax.random.key(0), images, None)
    if "teacher" not in _STARTED:
        real = jnp.zeros((1, 32, 32, 3))
        _STARTED["teacher"] = jax.jit(task.teacher.init)(jax.random.key(1), real)
    return task, _STARTED[shape], {"teacher": _STARTED["teacher"]}


_STARTED = {}


def chains(number, seed=0):
    """Maps in which a code says the next one, while every site has all codes equally often."""
    rng = np.random.RandomState(seed)
    return ((rng.randint(0, CODES, (number, 1)) + 3 * np.arange(SITES)) % CODES).astype(np.int32)


@pytest.mark.slow
def test_it_learns_maps_better_than_sites_on_their_own(images):
    config = tiny_gpt(steps=40).unlock()
    config.loss.pkeep = 1.0
    task, state, frozen = start(config, images)
    step, history = jax.jit(task.train_step), []
    for i in range(40):
        key = jax.random.fold_in(jax.random.key(2), i)
        state, metrics = step(state, frozen, images, key, task.phase(i), chains(4, seed=i))
        history.append(jax.device_get(metrics))
    first, last = history[0], history[-1]
    assert first["loss"] == pytest.approx(math.log(CODES), rel=0.1)
    assert last["loss"] < 0.5 * first["loss"]
    assert last["bits_per_dim"] == pytest.approx(last["loss"] / math.log(2), rel=1e-5)
    np.testing.assert_array_equal(state.site_counts.sum(-1), 4 * 40)
    # Held-out maps of the same kind, in place of the random teacher's.
    task.values = lambda frozen, images: jnp.asarray(chains(4, seed=99)).reshape(4, 16, 16, 1)
    evaluated = jax.jit(task.eval_step)(state, frozen, images, jax.random.split(KEY, 4))
    scores = {name: float(np.mean(value)) for name, value in evaluated.metrics.items()}
    assert scores["bits_per_dim_uniform"] == pytest.approx(4)
    assert scores["bits_per_dim_sites"] == pytest.approx(4, abs=0.1)
    assert scores["bits_per_dim"] < 3
    assert scores["image_bits_per_dim"] == pytest.approx(scores["bits_per_dim"] * SITES / 3072)
    assert {value.shape for value in evaluated.metrics.values()} == {(4,)}
    assert {panel.shape for panel in evaluated.panels.values()} == {(4, 32, 32, 3)}


KEY = jax.random.key(5)


def test_codes_are_the_teachers_unless_given(images):
    task, state, frozen = start(tiny_gpt(), images)
    encode = jax.jit(task.teacher.apply, static_argnames="method")
    codes = encode(frozen["teacher"], common.from_uint8(images), method="encode")
    step = jax.jit(task.train_step)
    encoded, first = step(state, frozen, images, KEY, task.phase(0))
    given, second = step(state, frozen, images, KEY, task.phase(0), codes.indices)
    np.testing.assert_array_equal(encoded.site_counts, given.site_counts)
    np.testing.assert_allclose(first["loss"], second["loss"], rtol=1e-5)


def test_slices_of_a_batch_make_the_same_step(images):
    config = tiny_gpt().unlock()
    config.gpt.dropout = 0.3
    config.loss.pkeep = 0.5
    results = []
    for slices in (1, 2):
        config.optimizer.accumulate = slices
        task, state, frozen = start(config, images)
        step = jax.jit(task.train_step)
        results.append(step(state, frozen, images, KEY, task.phase(0), chains(4)))
    (one, metrics), (two, others) = results
    for name in ("loss", "grad_norm_blocks", "accuracy"):
        if name in metrics:
            np.testing.assert_allclose(metrics[name], others[name], rtol=1e-4)
    np.testing.assert_array_equal(one.site_counts, two.site_counts)


def test_decay_is_of_matrices_only(images):
    task, state, _ = start(tiny_gpt(), images)
    optimizer = dataclasses.replace(task.optimizer, weight_decay=0.5)
    # Biases and norms start at 0 and 1: away from what a decay would leave alone.
    params = jax.tree.map(lambda x: x + 0.25, state.params)
    still = jax.tree.map(jnp.zeros_like, params)
    after, _ = optimizer.apply(still, state.opt_state, params, jnp.int32(30))
    decayed = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(after), strict=True
        )
        if np.any(a != b)
    }
    linear = ("attn/query", "attn/key", "attn/value", "attn/proj", "mlp_0", "mlp_2")
    assert decayed == {f"blocks_0/{name}/kernel" for name in linear} | {"head/kernel"}


def test_corruption_keeps_the_share_and_hides_no_target():
    codes = jnp.zeros((64, 500), jnp.int32)
    keys = jax.random.split(jax.random.key(0), 64)
    seen = np.asarray(gpt_prior.corrupt(codes, keys, 0.9, 4))
    # A replaced code is the same one again in a quarter of all cases.
    assert np.mean(seen == 0) == pytest.approx(0.9 + 0.1 / 4, abs=0.005)
    assert set(np.unique(seen)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(gpt_prior.corrupt(codes, keys, 1.0, 4), codes)
    np.testing.assert_array_equal(gpt_prior.corrupt(codes[5:6], keys[5:6], 0.9, 4)[0], seen[5])


@pytest.mark.slow
def test_conditions_come_before_the_codes(images):
    config = tiny_gpt().unlock()
    config.gpt.update(condition="class", classes=20)
    task, state, frozen = start(config, images)
    assert (task.module.vocab_size, task.module.condition_length) == (20, 1)
    step = jax.jit(task.train_step)
    losses = [
        float(
            step(state, frozen, images, KEY, task.phase(0), chains(4), jnp.full(4, label))[1][
                "loss"
            ]
        )
        for label in (0, 19)
    ]
    assert losses[0] != losses[1]
    with pytest.raises(ValueError, match="needs examples with a 'label'"):
        step(state, frozen, images, KEY, task.phase(0), chains(4))

    config.gpt.update(condition="codes", classes=0)
    task, state, frozen = start(config, images)
    assert task.module.condition_length == SITES
    _, metrics = jax.jit(task.train_step)(state, frozen, images, KEY, task.phase(0))
    assert np.isfinite(metrics["loss"])
    keys = jax.random.split(KEY, 4)
    condition = task.condition(frozen, {"images": images, "keys": keys}, task.recipe)
    clean = task.values(frozen, images).reshape(4, SITES)
    assert condition.shape == clean.shape
    assert np.any(condition != clean)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("gpt", {"n_head": 3}, "n_embd=16 does not divide into n_head=3"),
        ("gpt", {"block_size": 100}, "block_size=100 is too short"),
        ("data", {"image_size": 33}, "data.image_size=33 does not divide into codes of 2 px"),
    ],
)
def test_settings_that_do_not_fit(section, values, message):
    config = tiny_gpt().unlock()
    config[section].update(values)
    with pytest.raises(ValueError, match=message):
        make_task(config)
