"""The mesh, the one sharding rule, and the same numbers on any number of devices."""

from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn, drawn_state
from jax.experimental import mesh_utils
from jax.sharding import PartitionSpec
from linear import NAMES, ONE_FAST, linear_config, make_linear, relative_error

from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.system import parallel
from codeformer_jax.tasks import make_task
from codeformer_jax.train import plan
from codeformer_jax.train.step import make_step
from configs import demo

LOSSES = {"loss", "l1", "codebook_loss", "feature", "cross_entropy", "d_real", "d_fake", "mse"}


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
        ("slice:2,data:2,fsdp:2", {"slice": 2, "data": 2, "fsdp": 2}),
        ("data:-1,slice:4", {"slice": 4, "data": 2, "fsdp": 1}),
    ],
)
def test_mesh(description, shape):
    assert dict(parallel.make_mesh(description).shape) == shape


@pytest.mark.parametrize("description", ["rows:8", "data", "data:0", "slice:0", "data:x", ""])
def test_mesh_that_cannot_be_read(description):
    with pytest.raises(ValueError, match=r"expected e\.g\. 'data:-1' or 'data:4,fsdp:2'"):
        parallel.make_mesh(description)


def sliced_devices(slices=2, processes=2, each=2):
    """Stand-ins of `slices` x `processes` x `each` devices, in an order of no use."""
    found = [
        Mock(
            spec=jax.Device,
            id=id,
            slice_index=id // each // processes,
            process_index=id // each,
            platform="cpu",
        )
        for id in range(slices * processes * each)
    ]
    return found[::2] + found[1::2]


def test_slices_are_the_outer_axis_in_the_hybrid_order():
    """The same order as `create_hybrid_device_mesh`; a process keeps consecutive rows."""
    devices = sliced_devices()
    mesh = parallel.make_mesh("slice:2,data:2,fsdp:2", devices)
    assert mesh.axis_names == ("slice", "data", "fsdp")
    by_id = sorted(devices, key=lambda device: device.id)
    hybrid = mesh_utils.create_hybrid_device_mesh((1, 2, 2), (2, 1, 1), by_id)
    assert [d.id for d in mesh.devices.flat] == [d.id for d in hybrid.flat] == list(range(8))
    # Two slices of the hardware may be one of the mesh.
    pairs = parallel.make_mesh("slice:2,data:-1", sliced_devices(slices=4)).devices
    assert [{d.slice_index for d in part.flat} for part in pairs] == [{0, 1}, {2, 3}]
    # Without the axis the order is that of the processes, whatever the slices.
    flat = parallel.make_mesh("data:8", devices)
    assert flat.axis_names == ("data", "fsdp")
    assert [d.process_index for d in flat.devices.flat] == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("description", ["slice:4,data:2", "slice:8", "slice:2,data:3"])
def test_a_mesh_that_cuts_a_slice(description):
    with pytest.raises(ValueError, match=r"cuts one of the 2 slices of the hardware.*'slice:2'"):
        parallel.make_mesh(description, sliced_devices())


def test_parameters_are_split_within_a_slice_and_the_batch_over_all():
    mesh = parallel.make_mesh("slice:2,data:2,fsdp:2")
    shape = jax.ShapeDtypeStruct((512, 256), jnp.float32)
    assert parallel.state_sharding(mesh, shape).spec == PartitionSpec("fsdp")
    assert parallel.batch_sharding(mesh).shard_shape((16, 3)) == (2, 3)


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


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_FAST)
def test_every_mesh_steps_like_one_device(linear, name):
    """Losses, parameters, moving averages and optimizer states of five steps."""
    task = make_task(linear_config(name))
    given = start(task)
    want = five_steps("data:1", task, *given)
    meshes = ("data:8", "slice:2,data:2,fsdp:2")
    # Stages I to III compile for a minute on all of them, so they leave out the last.
    for description in meshes if name in demo.STAGES else (*meshes, "fsdp:8"):
        assert_alike(five_steps(description, task, *given), want, given[0], description)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_program_of_accelerators_steps_like_that_of_cpus(linear, name):
    """Runs here, with the branches of accelerators where a CPU has its own."""
    task = make_task(linear_config(name))
    given = start(task)
    want, taken = five_steps("data:4,fsdp:2", task, *given), []

    def take(*arguments, default, cpu=None, tpu=None):
        taken.append(tpu or default)
        return taken[-1](*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.lax, "platform_dependent", take)
        try:
            jax.clear_caches()  # Of functions traced before.
            have = five_steps("data:4,fsdp:2", task, *given)
        finally:
            jax.clear_caches()
    assert taken
    assert_alike(have, want, given[0], name)


def assert_alike(have, want, before, message):
    """Compares two results of `five_steps` that began with the same state."""
    (have, found), (want, history) = have, want
    assert history[0].keys() & LOSSES
    for name in history[0].keys() & LOSSES:
        np.testing.assert_allclose(
            [step[name] for step in found],
            [step[name] for step in history],
            rtol=1e-5,
            err_msg=f"{name} of {message}",
        )
    errors = {
        name: relative_error(getattr(have, name), getattr(want, name))
        for name in ("params", "ema_params", "opt_state", "collections", "discriminator")
    }
    assert max(errors.values()) < 1e-5, (message, errors)
    moved = relative_error(want.params, before.params)
    assert moved > 100 * errors["params"], (message, moved, errors)


@pytest.mark.parametrize("name", ONE_FAST)
def test_every_step_can_be_lowered_for_accelerators(name):
    config = linear_config(name, mesh="data:4,fsdp:2").unlock()
    network = next(name for name in ("gpt", "pixelcnn", "model") if name in config)
    config[network].dtype = "bfloat16"
    if name in demo.STAGES:
        config.model.remat = "dots"
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
    size = task.config.data.image_size
    source = SyntheticFaces("train", size, 8)
    images = np.stack([source[i]["image"] for i in range(8)])
    state = jax.device_get(drawn_state(task, images))
    frozen = {}
    if task.needs_teacher:
        names = {"encoder", "quantize", "generator"}
        teacher = {name: state.params[name] for name in names & state.params.keys()}
        if not teacher:  # Of a prior.
            pixels = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
            shapes = jax.eval_shape(task.teacher.init, jax.random.key(0), pixels)["params"]
            teacher = drawn(shapes, np.random.default_rng(1))
        frozen = {"teacher": {"params": teacher}}
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
    """Returns the bytes of a tree, and of one device's part of it."""
    leaves = jax.tree.leaves(tree)
    return sum(x.nbytes for x in leaves), sum(x.addressable_shards[0].data.nbytes for x in leaves)
