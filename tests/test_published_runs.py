"""Every published config takes real steps at reduced size, over every boundary that it sets."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_configs import CONFIGS, load
from tiny import shrink

from codeformer_jax import convert
from codeformer_jax.checkpoints.saving import Checkpoints
from codeformer_jax.checkpoints.trained import export_trained
from codeformer_jax.checkpoints.workdir import CONFIG_FILE, TEACHER_FILE
from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.nn import LPIPS
from codeformer_jax.tasks import common, make_task
from codeformer_jax.train.start import prepare

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


@pytest.mark.slow
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


def stage2_workdir(folder, *, zero_init=True):
    """A workdir of the shipped stage II, shrunk, as its first step leaves it; its state."""
    config = shrink(load("configs/codeformer_stage2.py")).unlock()
    config.codeformer.fusion_zero_init = zero_init
    task = make_task(config)
    state, frozen = start(task, config)
    checkpoints = Checkpoints(folder)
    checkpoints.save(state, None)
    checkpoints.close()
    (folder / CONFIG_FILE).write_text(config.to_json())
    convert.save_model(folder / TEACHER_FILE, "vqgan", task.teacher, frozen["teacher"])
    return state


def stage3_from(previous, workdir, path="configs/codeformer_stage3.py", teacher=None):
    """Parameters with which the shrunk config at `path` starts from `previous`."""
    config = shrink(load(path)).unlock()
    config.init_from, config.teacher = str(previous), teacher and str(teacher)
    config.loss.perceptual_weight = 0.0
    task = make_task(config)
    previous = prepare(task, config, workdir).previous
    return task.init(jax.random.key(5), jax.device_put(images()), previous).params


def last_kernels(params):
    blocks = common.select(params, ("fuse_convs_dict_",)).values()
    return [np.asarray(block[f"{head}_2"]["kernel"]) for block in blocks for head in HEADS]


HEADS = ("scale", "shift")
REFERENCE = "configs/reference/codeformer_stage3.py"


def test_chained_shipped_configs_start_fusion_as_stage_3_says(tmp_path, caplog):
    """The flag of stage III decides, whatever stage II made of blocks that it does not train."""
    caplog.set_level(logging.INFO)
    before = stage2_workdir(tmp_path / "stage2")
    assert not any(x.any() for x in last_kernels(before.params))
    published = stage3_from(tmp_path / "stage2", tmp_path / "new", REFERENCE)
    assert "fusion blocks start at random (codeformer.fusion_zero_init=False)" in caplog.text
    for kernel in last_kernels(published):
        bound = 1 / np.sqrt(9 * kernel.shape[2])
        np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.1)
    # The rest is stage II's.
    np.testing.assert_array_equal(
        published["feat_emb"]["kernel"], before.params["feat_emb"]["kernel"]
    )
    caplog.clear()
    corrected = stage3_from(tmp_path / "stage2", tmp_path / "new")
    assert "fusion blocks start at zero (codeformer.fusion_zero_init=True)" in caplog.text
    assert not any(x.any() for x in last_kernels(corrected))


def test_stage_2_with_random_fusion_blocks_does_not_hand_them_on(tmp_path):
    stage2_workdir(tmp_path / "stage2", zero_init=False)
    corrected = stage3_from(tmp_path / "stage2", tmp_path / "new")
    assert not any(x.any() for x in last_kernels(corrected))


@pytest.mark.slow
def test_trained_fusion_blocks_are_kept(tmp_path, caplog):
    """Of a stage III workdir, a model file, and a stage II that came from such a network."""
    caplog.set_level(logging.INFO)
    state = stage2_workdir(tmp_path / "stage2")
    teacher, file = tmp_path / "stage2", tmp_path / "codeformer.safetensors"
    config = shrink(load("configs/codeformer_stage3.py"))
    task = make_task(config)
    export_trained(tmp_path / "stage2", tmp_path / "untrained.safetensors")
    anew = stage3_from(tmp_path / "untrained.safetensors", tmp_path / "new", REFERENCE, teacher)
    assert all(x.any() for x in last_kernels(anew))

    trained = {**state.params, **common.select(anew, ("fuse_convs_dict_",))}
    convert.save_model(file, "codeformer", task.module, {"params": trained})
    inpainting = "configs/codeformer_inpainting.py"
    for path in ("configs/codeformer_stage3.py", REFERENCE, inpainting):
        params = stage3_from(file, tmp_path / "new", path, teacher)
        for name, block in common.select(params, ("fuse_convs_dict_",)).items():
            jax.tree.map(np.testing.assert_array_equal, block, trained[name])
        assert ("fuse_convs_dict_32" in params) == (path != inpainting)
    assert caplog.text.count("the fusion blocks of init_from are kept") == 3
    origin = load("configs/codeformer_stage2.py")
    variables = {"params": trained}
    assert task.start_from(variables, origin) is variables
