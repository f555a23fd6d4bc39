"""Nothing but parameters, gradients and statistics crosses devices, in every task."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collectives import (
    compiled_evaluation,
    compiled_step,
    is_activation,
    prepared,
    take_accelerators_branch,
    unexpected,
)
from linear import NAMES, make_linear

from codeformer_jax import degrade
from codeformer_jax.ops.devices import on_all_devices, on_each_device
from codeformer_jax.system import parallel
from codeformer_jax.train.traffic import Collective, collectives
from configs import demo

# Parameters whole on each device, and sharded; slices only for stages I to III, to compile less.
SHARDED = {
    name: "slice:2,data:2,fsdp:2" if name in demo.STAGES else "data:4,fsdp:2" for name in NAMES
}
CASES = [(mesh, name) for name in NAMES for mesh in ("data:8", SHARDED[name])]


@pytest.fixture(scope="module", autouse=True)
def accelerators():
    """Compiles the program of accelerators, with small arrays sharded."""
    with pytest.MonkeyPatch.context() as patch:
        make_linear(patch.setattr)
        patch.setattr(jax.lax, "platform_dependent", take_accelerators_branch)
        jax.clear_caches()  # Of functions traced before.
        yield
    jax.clear_caches()
    prepared.cache_clear()


@pytest.fixture(scope="module")
def alone():
    """(compile, name) -> the program of one device, compiled once."""
    programs = {}

    def get(compiled, name):
        if (compiled, name) not in programs:
            programs[compiled, name] = compiled(name, "data:1")
        return programs[compiled, name]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [compiled_step, compiled_evaluation])
@pytest.mark.parametrize(("mesh", "name"), CASES)
def test_per_image_work_stays_on_its_device(alone, compiled, name, mesh):
    one, program = alone(compiled, name), compiled(name, mesh)
    assert program.activations == []
    if name in demo.STAGES:
        assert program.unexpected == []
    np.testing.assert_allclose(program.flops, one.flops, rtol=0.1)
    assert program.temporaries < 1.1 * one.temporaries


def blurred(images, keys, recipe, mesh, use):
    """Compiles the degradation for a mesh, which is in use or not."""

    def program(images, keys, recipe):
        if use:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return degrade.degrade(images, keys, recipe)
        return degrade.degrade(images, keys, recipe)

    rows, whole = parallel.batch_sharding(mesh), parallel.replicated(mesh)
    jitted = jax.jit(program, in_shardings=(rows, rows, whole), out_shardings=rows)
    return jitted.lower(images, keys, recipe).compile()


@pytest.mark.slow
def test_sampling_of_codes_stays_on_its_device():
    program = compiled_evaluation("gpt_prior", "slice:2,data:2,fsdp:2", sample=True)
    assert program.largest[0] > 0  # Parameters are gathered.
    assert program.activations == []
    assert program.unexpected == []


@pytest.mark.slow
def test_without_the_mesh_in_use_activations_cross_devices():
    """The results equal those of one device bit for bit."""
    images = jax.random.uniform(jax.random.key(0), (8, 160, 160, 3))
    keys, recipe = jax.random.split(jax.random.key(1), 8), degrade.Recipe.named("large")
    mesh = parallel.make_mesh("data:4,fsdp:2")
    found = {}
    for use in (False, True):
        compiled = blurred(images, keys, recipe, mesh, use)
        found[use] = collectives(compiled.as_text(), mesh.shape)
        if use:
            rows = parallel.batch_sharding(mesh)
            have = compiled(jax.device_put(images, rows), jax.device_put(keys, rows), recipe)
    assert any(is_activation(shape, 8) for c in found[False] for _, shape in c.arrays)
    assert found[True] == []
    want = jnp.concatenate(
        [jax.jit(degrade.degrade)(images[i : i + 1], keys[i : i + 1], recipe) for i in range(8)]
    )
    np.testing.assert_array_equal(have, want)


def test_elsewhere_nothing_changes():
    images = jnp.ones((6, 2, 2, 3))
    plain = str(jax.make_jaxpr(lambda x: x + 1)(images))
    mesh = parallel.make_mesh("data:4").abstract_mesh

    def each(x):
        return on_each_device(lambda x: x + 1, x)

    assert str(jax.make_jaxpr(each)(images)) == plain
    assert on_all_devices(images) is images
    with jax.sharding.use_abstract_mesh(mesh):  # Which does not divide the batch.
        assert "shard_map" not in str(jax.make_jaxpr(each)(images))
        assert "shard_map" in str(jax.make_jaxpr(each)(images[:4]))


@pytest.mark.parametrize(
    ("kind", "shape", "source"),
    [
        ("all-reduce", (16, 20, 20, 8), "jit(step)/conv"),
        ("all-gather", (56,), "jit(step)/indices"),
        ("all-gather", (22400, 8), "jit(step)/latents"),
        ("all-to-all", (16, 8), "jit(step)/fft"),
        ("collective-permute", (16, 8), "jit(step)/roll"),
        ("all-gather", (16, 8), "jit(step)/shard_map/while/body"),
    ],
)
def test_unexpected_collectives_are_seen(kind, shape, source):
    codebook = {(16, 8), (3, 3, 8, 16)}
    ours = [
        Collective("all-gather", (), (), ((512, (16, 8)),), 1, "jit(step)/sharding_constraint"),
        Collective("all-reduce", (), (), ((64, (1, 16)), (4, ())), 1, "jit(step)/reduce_sum"),
        Collective("all-reduce", (), (), ((1536, (48, 8)),), 1, "jit(step)/dot_general"),
    ]
    assert unexpected(ours, codebook) == []
    (named,) = unexpected([*ours, Collective(kind, (), (), ((0, shape),), 1, source)], codebook)
    assert named.startswith(kind)
    assert source in named
