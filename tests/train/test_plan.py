"""Plans of runs: the compiler's figures for each step, on meshes that do not exist."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny import tiny_config

from codeformer_jax.system import parallel
from codeformer_jax.tasks import make_task
from codeformer_jax.train import plan
from codeformer_jax.train.step import make_step

ROOT = Path(__file__).resolve().parents[2]


def config_of(**given):
    config = tiny_config("restoration", steps=6).unlock()
    config.data.batch_size = 8
    config.mesh = "data:2,fsdp:2"
    config.loss.gan_start = 100
    rows = {"w": 1.0, "recipe": "small", "image_losses": True}
    config.schedule = (
        {"until": 2, **rows, "w": 0.0, "image_losses": False},
        {"until": 6, **rows},
    )
    config.update(given)
    return config


@pytest.fixture(scope="module", autouse=True)
def _all_devices():
    jax.devices()  # Where JAX has not started, the first plan asks for as many as its mesh has.


@pytest.fixture(scope="module")
def planned():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "MIN_SHARDED_SIZE", 16)
        return plan.make_plan(config_of())


def nbytes(tree):
    return sum(
        shard.data.nbytes
        for x in jax.tree.leaves(tree)
        for shard in x.addressable_shards
        if shard.device.id == 0
    )


@pytest.mark.slow
def test_one_row_for_each_compiled_step(planned):
    steps = planned.steps
    assert [(c.first_step, c.steps) for c in steps] == [(0, 2), (2, 4)]
    assert [c.phase["image_losses"] for c in steps] == [False, True]
    # Fusion and generator are left out of the first.
    assert steps[0].flops < 0.8 * steps[1].flops
    for cost in steps:
        parts = cost.arguments + cost.outputs - cost.aliases + cost.temporaries
        assert cost.peak == parts > cost.arguments > 0
        # The state is donated.
        assert cost.aliases > 0.9 * planned.state


@pytest.mark.slow
def test_figures_are_those_of_the_step_that_runs(planned, monkeypatch):
    monkeypatch.setattr(parallel, "MIN_SHARDED_SIZE", 16)
    config = config_of()
    mesh, task = parallel.make_mesh(config.mesh), make_task(config)
    images = np.zeros((8, 32, 32, 3), np.uint8)
    abstract = jax.eval_shape(lambda k, x: task.init(k, x, None), jax.random.key(0), images)
    sharding = parallel.state_sharding(mesh, abstract)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
    state = jax.device_put(zeros, sharding)
    names = ("encoder", "quantize", "generator")
    teacher = {"params": {name: zeros.params[name] for name in names}}
    frozen = jax.device_put({"teacher": teacher}, parallel.replicated(mesh))
    batch = jax.device_put({"image": images}, parallel.batch_sharding(mesh))
    assert planned.state == nbytes(state)
    assert planned.frozen == nbytes(frozen)
    assert planned.batch == nbytes(batch)
    step = make_step(task, mesh, sharding)
    arguments = (state, frozen, batch, jax.random.key(0), task.phase(0))
    compiled = step.lower(*arguments).compile()
    assert compiled.memory_analysis().argument_size_in_bytes == planned.steps[0].arguments
    np.testing.assert_allclose(compiled.cost_analysis()["flops"], planned.steps[0].flops, rtol=0.02)


@pytest.mark.slow
def test_the_first_state_is_planned_and_encodes_few_images(monkeypatch):
    """The memory of its codes does not grow with the batch."""
    found = {}
    for batch, mesh in ((16, "data:1"), (64, "data:1"), (64, "data:8")):
        config = tiny_config("vqgan").unlock()
        config.data.batch_size, config.mesh = batch, mesh
        monkeypatch.setattr(plan, "distinct_phases", lambda task, steps: [])
        found[batch, mesh] = plan.make_plan(config).init
    one, many, shared = found.values()
    assert one.flops > 0
    np.testing.assert_allclose(many.flops, one.flops, rtol=0.01)
    assert many.temporaries < 1.1 * one.temporaries
    assert shared.temporaries < 1.1 * one.temporaries
    assert one.outputs > 0
    assert one.peak == one.arguments + one.outputs - one.aliases + one.temporaries


@pytest.mark.slow
def test_traffic_is_listed_by_axis(planned):
    """Parameters are gathered along fsdp, gradients summed along both axes."""
    for cost in planned.steps:
        found = {(t.kind, t.axes): t for t in cost.traffic}
        assert {("all-gather", "fsdp"), ("all-reduce", "data+fsdp")} <= found.keys()
        reduced = found["all-reduce", "data+fsdp"]
        assert reduced.inside == pytest.approx(2 * reduced.bytes * 3 / 4)
        assert reduced.between == 0
        assert cost.times["TPU v5e"].links > cost.times["TPU v5p"].links > 0
        assert cost.times["TPU v5e"].operations == pytest.approx(cost.flops / 197e12)


@pytest.mark.slow
def test_the_table_names_everything(planned):
    text = plan.table(planned)
    assert "mesh data:2,fsdp:2, batch 8 (2 on each device)" in text
    assert "image_losses=False, gan=False" in text
    assert "first state" in text.splitlines()[3]
    assert "Temporaries, and with them the peak, are an estimate" in text
    assert "FLOP on all devices" in text
    assert re.search(r"all-reduce +data\+fsdp ", text)
    assert re.search(r"NVIDIA H200( +\d+\.\d{3}){6}\n", text)
    assert "No run has been timed" in text


@pytest.mark.slow
def test_slices_hold_less_and_are_counted(capsys):
    config = config_of(steps=2, mesh="data:1")
    whole = plan.make_plan(config).steps[0]
    config.optimizer.accumulate = 4
    config = config.copy_and_resolve_references()
    capsys.readouterr()
    sliced = plan.make_plan(config)
    assert [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "compiling the first state",
        "compiling step 1 of 1 (image_losses=False, gan=False)",
    ]
    assert any("times optimizer.accumulate=4" in note for note in sliced.notes)
    np.testing.assert_allclose(sliced.steps[0].flops, whole.flops, rtol=0.1)
    assert sliced.steps[0].temporaries < 0.6 * whole.temporaries


@pytest.mark.slow
def test_rematerialized_activations_are_not_kept():
    """The CPU's compiler would otherwise merge the repeated computation."""
    config = config_of(steps=1, mesh="data:2")
    costs = {}
    for policy in (None, "dots", "full"):
        config.model.remat = policy
        costs[policy] = plan.make_plan(config).steps[0]
    assert costs["full"].temporaries < 0.7 * costs[None].temporaries
    assert costs["full"].temporaries < costs["dots"].temporaries < 0.9 * costs[None].temporaries
    assert costs[None].flops < costs["dots"].flops < costs["full"].flops


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"train\.plan_format='xml' must be one of table, json"):
        plan.compile_only(config_of(train={"plan_format": "xml"}))
    with pytest.raises(ValueError, match="does not divide over the 3 devices"):
        plan.make_plan(config_of(mesh="data:3"))
    with pytest.raises(ValueError, match=r"'v9z:1x1' cannot be compiled for here: .*libtpu"):
        plan.planned_mesh("data:1", "v9z:1x1")
    with pytest.raises(ValueError, match=r"train\.topology needs the number of slices.*'slice:2'"):
        plan.planned_mesh("slice:-1,data:8", "v5e:2x4")


@pytest.mark.slow
def test_a_mesh_of_256_is_planned_by_the_command_without_such_a_machine(tmp_path):
    command = [sys.executable, "train.py", "--config=configs/demo.py:code_prediction,short"]
    command += ["--config.mesh=data:64,fsdp:4", "--config.train.compile_only"]
    command += ["--config.data.batch_size=256"]
    command += ["--config.train.plan_format=json", f"--config.init_from={tmp_path}/nothing"]
    command += ["--config.train.deterministic"]
    dumped = tmp_path / "dumped"
    flags = f"--xla_dump_to={dumped} --xla_dump_hlo_as_text --xla_backend_optimization_level=0"
    environment = {**os.environ, "XLA_FLAGS": flags}
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    # XLA was told before it started.
    (options, *_) = dumped.glob("*jit_step*.debug_options")
    assert "xla_gpu_deterministic_ops: true" in options.read_text()
    shutil.rmtree(dumped)
    assert "s: compiling step 1 of 1 (the only one)" in done.stderr
    said = json.loads(done.stdout)
    assert said["mesh"] == {"data": 64, "fsdp": 4}
    assert said["batch_size"] == 256
    assert said["batch"] == 64 * 64 * 3
    assert said["steps"][0]["flops"] > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_training_needs_a_workdir():
    command = [sys.executable, "train.py", "--config=configs/demo.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "--workdir=DIR is required to train" in done.stdout + done.stderr
