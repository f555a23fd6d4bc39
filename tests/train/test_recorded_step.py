"""A recorded training step: the same step, and a trace that meets PyTorch's."""

import jax
import numpy as np
import pytest
from states import assert_equal
from stepping import start
from tiny import tiny_config, tiny_vqvae

from codeformer_jax.compare import compare, load
from codeformer_jax.train.recorded_step import step_recorder
from codeformer_jax.train.trace_step import trace_next_step


def images(seed):
    return np.random.default_rng(seed).integers(0, 256, (4, 32, 32, 3), np.uint8)


def entries(trace, kind):
    return {entry.name: entry.array for entry in trace.entries if entry.kind == kind}


def test_recording_changes_no_bit_of_the_step():
    task, state, frozen = start(tiny_config("code_prediction"), images(0))
    degraded = images(1).astype(np.float32) / 127.5 - 1
    after, metrics, trace = step_recorder(task)(state, frozen, images(0), degraded)
    task.degrade = lambda real, keys, recipe: degraded
    plain, plain_metrics = jax.jit(task.train_step)(
        state, frozen, images(0), jax.random.key(0), task.phase(0)
    )
    assert_equal(after, plain)
    assert entries(trace, "loss") == {k: np.float32(v) for k, v in plain_metrics.items()}
    assert metrics.keys() == plain_metrics.keys()
    # Adam's first step is the learning rate times the sign of the gradient.
    gradients, moved = entries(trace, "gradient"), entries(trace, "parameter")
    assert gradients.keys() == moved.keys()
    name = "idx_pred_layer.1.weight"
    before = np.asarray(state.params["idx_pred_layer_1"]["kernel"]).T
    large = np.abs(gradients[name]) > 1e-4
    assert large.any()
    assert np.all(np.sign(before - moved[name])[large] == np.sign(gradients[name])[large])


def test_a_step_with_a_discriminator_has_both_networks(tmp_path):
    task, state, frozen = start(tiny_config("vqgan"), images(0))
    trace = step_recorder(task)(state, frozen, images(0))[2]
    gradients = entries(trace, "gradient")
    assert "generator.blocks.0.weight" in gradients
    assert "discriminator.main.0.weight" in gradients
    assert "adaptive_weight" in entries(trace, "loss")
    assert "encoder.blocks.0.weight" in trace.weights
    trace.save(tmp_path / "step.trace")
    assert compare(trace, load(tmp_path / "step.trace"), tolerance=0.0).agrees


def test_another_learning_rate_shows_in_the_metric_and_the_parameters():
    config = tiny_vqvae().unlock()
    task, state, frozen = start(config, images(0))
    ours = step_recorder(task)(state, frozen, images(0))[2]
    config.optimizer.learning_rate *= 2
    task, state, frozen = start(config, images(0))
    comparison = compare(ours, step_recorder(task)(state, frozen, images(0))[2], tolerance=1e-7)
    assert comparison.first_difference.name == "learning_rate"
    kinds = {row.kind for row in comparison.rows if not row.agrees}
    assert kinds == {"loss", "parameter"}


def test_the_next_step_of_a_run_is_recorded(stages):
    folder, _ = stages
    trace = trace_next_step(folder / "vqgan", images(0))
    assert entries(trace, "loss")["loss"] > 0
    again = trace_next_step(folder / "vqgan", images(0))
    assert compare(trace, again, tolerance=0.0).agrees


def test_torch_writes_the_same_kind_of_trace(tmp_path):
    torch = pytest.importorskip("torch")
    from codeformer_jax.compare.steps import step_trace  # noqa: PLC0415
    from codeformer_jax.compare.trace_torch import record_step  # noqa: PLC0415

    network = torch.nn.ModuleDict({"head": torch.nn.Linear(3, 2)})
    layer = network["head"]
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    kernel, bias = (p.detach().numpy().copy() for p in (layer.weight, layer.bias))

    def step():
        optimizer.zero_grad()
        loss = layer(torch.from_numpy(x)).square().mean()
        loss.backward()
        optimizer.step()
        return {"loss": loss}

    record_step(step, dict(network.named_parameters()), tmp_path / "torch.trace")

    def loss(params):
        head = params["head"]
        return jax.numpy.mean((x @ head["kernel"] + head["bias"][None]) ** 2)

    params = {"head": {"kernel": kernel.T, "bias": bias}}
    value, gradients = jax.value_and_grad(loss)(params)
    after = jax.tree.map(lambda p, g: p - 0.5 * g, params, gradients)
    ours = step_trace({"loss": value}, {"linear": gradients}, {"linear": params}, {"linear": after})
    comparison = compare(ours, tmp_path / "torch.trace")
    assert comparison.agrees, str(comparison)
    assert len(comparison.rows) == 5
    assert comparison.only_a == comparison.only_b == ()
