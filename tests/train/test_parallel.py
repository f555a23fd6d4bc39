"""The mesh, the one sharding rule, and the same numbers on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn_state
from jax.sharding import PartitionSpec
from linear import linear_config, make_linear, relative_error

from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.tasks import make_task
from codeformer_jax.train import parallel, plan
from codeformer_jax.train.step import make_step
from configs import demo

LOSSES = {"loss", "l1", "codebook_loss", "feature", "cross_entropy", "d_real", "d_fake"}


@pytest.fixture
def linear(monkeypatch):
    make_linear(monkeypatch.setattr)


@pytest.mark.parametrize(
    ("description", "shape"),
    [
        ("data:-1", {"data": 8, "fsdp": 1}),
        ("data:1", {"data": 1, "fsdp": 1}),
        ("data:4,fsdp:2", {"data": 4, "fsdp": 2}),
        ("fsdp:-1,data:2", {"data": 2, "fsdp": 4}),
    ],
)
def test_mesh(description, shape):
    assert dict(parallel.make_mesh(description).shape) == shape


@pytest.mark.parametrize("description", ["rows:8", "data", "data:0", "data:x", ""])
def test_mesh_that_cannot_be_read(description):
    with pytest.raises(ValueError, match=r"expected e\.g\. 'data:-1' or 'data:4,fsdp:2'"):
        parallel.make_mesh(description)


@pytest.mark.parametrize("description", ["data:16", "data:3,fsdp:-1", "data:-1,fsdp:-1"])
def test_mesh_that_does_not_fit(description):
    with pytest.raises(ValueError, match="does not fit 8 devices"):
        parallel.make_mesh(description)


def test_large_arrays_are_split_along_their_longest_divisible_axis():
    mesh = parallel.make_mesh("data:4,fsdp:2")
    shapes = {
        "kernel": jax.ShapeDtypeStruct((3, 3, 128, 256), jnp.float32),
        "odd": jax.ShapeDtypeStruct((401, 403), jnp.float32),
        "bias": jax.ShapeDtypeStruct((256,), jnp.float32),
    }
    specs = jax.tree.map(lambda s: s.spec, parallel.state_sharding(mesh, shapes))
    assert specs == {
        "kernel": PartitionSpec(None, None, None, "fsdp"),
        "odd": PartitionSpec(),
        "bias": PartitionSpec(),
    }


@pytest.mark.parametrize("stage", demo.STAGES)
def test_every_mesh_steps_like_one_device(linear, stage):
    """Losses, parameters, moving averages and optimizer states of five steps."""
    config = linear_config(stage)
    task = make_task(config)
    state, frozen, images = start(task)
    want, history = five_steps("data:1", task, state, frozen, images)
    moved = relative_error(want.params, state.params)
    for description in ("data:8", "data:4,fsdp:2", "fsdp:8"):
        have, losses = five_steps(description, task, state, frozen, images)
        for name in LOSSES & history[0].keys():
            np.testing.assert_allclose(
                [step[name] for step in losses],
                [step[name] for step in history],
                rtol=1e-5,
                err_msg=f"{name} on {description}",
            )
        errors = {
            name: relative_error(getattr(have, name), getattr(want, name))
            for name in ("params", "ema_params", "opt_state", "collections", "discriminator")
        }
        assert max(errors.values()) < 1e-5, (description, errors)
        assert moved > 100 * errors["params"], (description, moved)


@pytest.mark.parametrize("stage", demo.STAGES)
def test_the_program_of_accelerators_steps_like_that_of_cpus(linear, stage):
    """Computed here; where a CPU has a branch of its own, theirs is taken."""
    task = make_task(linear_config(stage))
    state, frozen, images = start(task)
    want, history = five_steps("data:4,fsdp:2", task, state, frozen, images)
    taken = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            jax.lax,
            "platform_dependent",
            lambda *args, cpu, default: taken.append(default) or default(*args),
        )
        jax.clear_caches()  # Of functions traced before.
        have, losses = five_steps("data:4,fsdp:2", task, state, frozen, images)
    jax.clear_caches()
    assert len(taken) > 10
    for name in LOSSES & history[0].keys():
        np.testing.assert_allclose(
            [step[name] for step in losses],
            [step[name] for step in history],
            rtol=1e-5,
            err_msg=name,
        )
    for name in ("params", "ema_params", "opt_state", "collections", "discriminator"):
        assert relative_error(getattr(have, name), getattr(want, name)) < 1e-5, name


@pytest.mark.parametrize("stage", demo.STAGES)
def test_every_step_can_be_lowered_for_accelerators(stage):
    config = linear_config(stage, mesh="data:4,fsdp:2").unlock()
    config.model.update(dtype="bfloat16", remat="dots")
    task, mesh = make_task(config), parallel.make_mesh(config.mesh)
    arguments = plan.abstract_arguments(task, config, mesh)
    step = make_step(task, mesh, jax.tree.map(lambda x: x.sharding, arguments[0]))
    for _, _, phase in plan.distinct_phases(task, config.steps):
        traced = step.trace(*arguments, phase)
        for platform in ("cuda", "rocm", "tpu"):
            with jax.numpy_dtype_promotion("standard"):  # Lowering JAX's attention promotes.
                text = traced.lower(lowering_platforms=(platform,)).as_text()
            assert "mhlo.num_partitions = 8" in text


def start(task):
    """A state, frozen networks and images on the host; the teacher is the student's own network."""
    source = SyntheticFaces("train", 32, 8)
    images = np.stack([source[i]["image"] for i in range(8)])
    state = jax.device_get(drawn_state(task, images))
    frozen = {}
    if task.needs_teacher:
        names = ("encoder", "quantize", "generator")
        frozen = {"teacher": {"params": {name: state.params[name] for name in names}}}
    return state, frozen, images


def five_steps(description, task, state, frozen, images):
    """State after five steps on a mesh and the metrics of each, on the host."""
    mesh = parallel.make_mesh(description)
    sharding = parallel.state_sharding(mesh, state)
    state = jax.device_put(state, sharding)
    if mesh.shape["fsdp"] > 1:
        for name in ("params", "ema_params", "opt_state"):
            whole, shard = bytes_of(getattr(state, name))
            assert shard < 1.3 * whole / mesh.shape["fsdp"], (name, whole, shard)
    step = make_step(task, mesh, sharding)
    frozen = parallel.put_replicated(mesh, frozen)
    history = []
    for i in range(5):
        batch = parallel.put_batch(mesh, {"image": np.roll(images, i, axis=0)})
        state, metrics = step(state, frozen, batch, jax.random.key(1), task.phase(i))
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history


def bytes_of(tree):
    """Bytes of all of a tree and of what one device holds of it."""
    leaves = jax.tree.leaves(tree)
    return sum(x.nbytes for x in leaves), sum(x.addressable_shards[0].data.nbytes for x in leaves)
