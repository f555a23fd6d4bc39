"""Every published config takes real steps at reduced size, over every boundary that it sets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_configs import CONFIGS, load
from tiny import shrink

from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.nn import LPIPS
from codeformer_jax.tasks import common, make_task

PUBLISHED = [path for path in CONFIGS if path != "configs/demo.py"]


@functools.cache
def images():
    source = SyntheticFaces("train", 32, 8)
    return np.stack([source[i]["image"] for i in range(4)])


@functools.cache
def lpips():
    """LPIPS with random weights, positive where the real ones are."""
    pixels = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    shapes = jax.eval_shape(LPIPS().init, jax.random.key(0), pixels, pixels)
    random = np.random.default_rng(0)

    def draw(path, leaf):
        values = random.standard_normal(leaf.shape, np.float32) / np.sqrt(np.prod(leaf.shape[:-1]))
        return np.abs(values) if "layer" in jax.tree_util.keystr(path) else np.float32(values)

    return jax.tree_util.tree_map_with_path(draw, shapes)


_STATES = {}


def start(task, config):
    """A state, drawn once for all configs whose networks begin alike, and the frozen networks."""
    sections = ("task", "model", "codeformer", "discriminator", "codebook_init", "prior_of", "gpt")
    known = tuple(str(config.get(name)) for name in sections)
    if known not in _STATES:
        # Not compiled as one: layers of one shape are alike in all configs.
        _STATES[known] = task.init(jax.random.key(0), jax.device_put(images()), None)
    state, frozen = _STATES[known], {}
    if task.needs_teacher:
        names = ("encoder", "quantize", "generator")
        if "encoder" in state.params:
            frozen["teacher"] = {"params": {name: state.params[name] for name in names}}
        else:  # A prior has nothing of its teacher.
            pixels = common.from_uint8(jnp.asarray(images()))
            frozen["teacher"] = jax.jit(task.teacher.init)(jax.random.key(2), pixels)
    if config.loss.get("perceptual_weight"):
        frozen["lpips"] = lpips()
    return state, frozen


def expected_rates(config, published):
    """By PyTorch's formulas, of the steps in the shrunk config."""
    optimizer, steps = config.optimizer, np.arange(config.steps)
    if optimizer.schedule == "cosine":
        low, high = optimizer.final_learning_rate, optimizer.learning_rate
        warm = np.minimum(1, (steps + 1) / max(1, optimizer.warmup_steps))
        return warm * (low + (high - low) * (1 + np.cos(np.pi * steps / config.steps)) / 2)
    if optimizer.schedule == "constant":
        return np.full(config.steps, optimizer.learning_rate)
    assert (optimizer.schedule, published.optimizer.schedule) == ("multistep",) * 2
    passed = sum((steps >= milestone).astype(int) for milestone in optimizer.milestones)
    return optimizer.learning_rate * optimizer.gamma**passed


@pytest.mark.parametrize("path", PUBLISHED)
def test_published_config_runs_over_its_boundaries(path):
    published = load(path)
    config = shrink(published)
    task = make_task(config)
    state, frozen = start(task, config)
    before, step, history = state.params, jax.jit(task.train_step), []
    for i in range(config.steps):
        key = jax.random.fold_in(jax.random.key(1), i)
        state, metrics = step(state, frozen, images(), key, task.phase(i))
        history.append(jax.device_get(metrics))
    assert config.steps >= 3
    assert int(state.step) == config.steps
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((history, state)))
    np.testing.assert_allclose(
        [m["learning_rate"] for m in history], expected_rates(config, published), rtol=1e-5
    )
    moved = {
        name for name in before if optax.tree.norm(optax.tree.sub(before[name], state.params[name]))
    }
    assert moved == set(state.ema_params)
    if "gan_start" not in config.loss:
        return
    rows = config.get("schedule", [{"until": config.steps, "image_losses": True}])
    rows = [
        next(r for r in rows if i < r["until"] and (i + 1) % (r.get("every") or 1) == 0)
        for i in range(config.steps)
    ]
    assert ["l1" in m for m in history] == [row["image_losses"] for row in rows]
    gan = [row["image_losses"] and i >= config.loss.gan_start for i, row in enumerate(rows)]
    assert ["d_real" in m for m in history] == gan
    assert True in gan
    assert False in gan
    if "schedule" in config:
        assert {str(row) for row in rows} == {str(row) for row in config.schedule}


def test_shrinking_keeps_every_value_that_is_not_a_size():
    """And the order of the boundaries."""
    published = load("configs/codeformer_stage3.py")
    config = shrink(published)
    sizes = {"model", "codeformer", "discriminator", "data", "schedule", "steps"}
    for name in set(published) - sizes:
        if name != "loss":
            assert config[name] == published[name], name
    assert {**config.loss, "gan_start": 5_000} == dict(published.loss)
    assert [row["until"] for row in config.schedule] == [2, 3, 4, 6, 6]
    assert (config.loss.gan_start, config.steps) == (1, 6)
    for row, theirs in zip(config.schedule, published.schedule, strict=True):
        kept = {"w", "recipe", "image_losses"}
        assert {k: row[k] for k in kept} == {k: theirs[k] for k in kept}
