"""The mesh, the one sharding rule, and the same numbers on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from tiny import tiny_config

from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.tasks import make_task
from codeformer_jax.train import parallel


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


def test_four_devices_give_the_numbers_of_one(monkeypatch):
    monkeypatch.setattr(parallel, "MIN_SHARDED_SIZE", 16)
    config = tiny_config("vqgan").unlock()
    # Adam's first step is the gradient's sign, which rounding decides where it is nearly zero.
    config.optimizer.clip_norm = 0.0
    task = make_task(config)
    source = SyntheticFaces("train", 32, 8)
    images = np.stack([source[i]["image"] for i in range(8)])
    key, phase = jax.random.key(0), task.phase(0)
    results = {}
    for description in ("data:1", "data:2,fsdp:2"):
        mesh = parallel.make_mesh(description)
        abstract = jax.eval_shape(lambda k, i: task.init(k, i, None), key, images)
        sharding = parallel.state_sharding(mesh, abstract)
        state = jax.jit(lambda k, i: task.init(k, i, None), out_shardings=sharding)(key, images)
        step = jax.jit(task.train_step, out_shardings=(sharding, parallel.replicated(mesh)))
        losses = []
        for _ in range(3):
            batch = jax.device_put(images, parallel.batch_sharding(mesh))
            state, metrics = step(state, {}, batch, key, phase)
            losses.append([float(metrics[name]) for name in ("loss", "l1", "d_real", "d_fake")])
        results[description] = np.array(losses)
    assert any(len(x.sharding.device_set) == 4 for x in jax.tree.leaves(state.params))
    np.testing.assert_allclose(results["data:2,fsdp:2"], results["data:1"], rtol=2e-5)
