"""The recorder that users copy: what it keeps of a PyTorch module, and that it stands alone."""

import ast
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors

torch = pytest.importorskip("torch")

from compare import torch_twin  # noqa: E402
from torch import nn  # noqa: E402

from codeformer_jax.compare import assert_close, compare, load, trace, trace_torch  # noqa: E402
from codeformer_jax.compare.trace import digest  # noqa: E402
from codeformer_jax.convert import from_torch  # noqa: E402


@dataclasses.dataclass
class Output:
    """What a module of a user may return."""

    image: torch.Tensor
    scale: float


class Shared(nn.Module):
    """A module with one layer that is called twice, tuples, dictionaries and in-place ReLUs."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.pair = Pair()
        self.table = Table()

    def forward(self, x):
        y = self.relu(self.first(x))
        y = self.relu(self.first(y))
        high, (low, _) = self.pair(y)
        return self.table(high + low)


class Pair(nn.Module):
    def forward(self, x):
        return x + 1, (x - 1, None)


class Table(nn.Module):
    def forward(self, x):
        return {"image": x, "codes": x.argmax(1), "made": Output(2 * x, 2.0)}


def images(*shape):
    return torch.from_numpy(np.random.default_rng(0).normal(size=shape).astype("float32"))


def record(module, inputs, tmp_path, **options):
    trace_torch.record(module, inputs, tmp_path / "a.trace", **options)
    return load(tmp_path / "a.trace")


def names(made, kind="activation"):
    return [entry.name for entry in made.entries if entry.kind == kind]


def test_the_recorder_stands_alone():
    source = Path(trace_torch.__file__).read_text()
    assert len(source.splitlines()) < 200
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    outside = imported - set(sys.stdlib_module_names)
    assert outside == {"torch", "numpy", "safetensors"}


def test_repeated_calls_tuples_and_dictionaries_have_names(tmp_path):
    x = images(1, 3, 4, 4)
    module = Shared()
    made = record(module, x, tmp_path)
    assert names(made) == [
        "first", "relu", "first#1", "relu#1", "pair.0", "pair.1.0", "table.image",
        "table.made.image", "output.image", "output.made.image",
    ]  # fmt: skip
    assert names(made, "code") == ["table.codes", "output.codes"]
    with torch.no_grad():
        expected = module(x)
    np.testing.assert_array_equal(made["output.image"], expected["image"])
    np.testing.assert_array_equal(made["output.codes"], expected["codes"])
    assert made["output.codes"].dtype == np.int64


@pytest.mark.parametrize("gradients", [False, True])
def test_an_output_is_kept_before_it_is_changed_in_place(gradients, tmp_path):
    module, x = Shared(), images(1, 3, 4, 4)
    made = record(module, x, tmp_path, gradients=gradients)
    with torch.no_grad():
        first = module.first(x)
    np.testing.assert_array_equal(made["first"], first)
    assert made["first"].min() < 0 <= made["relu"].min()
    assert {e.nonfinite for e in made.entries} == {0}


def test_gradients_do_not_depend_on_operations_in_place(tmp_path):
    module, x = Shared(), images(1, 3, 4, 4)
    in_place = record(module, x, tmp_path, gradients=True)
    module.relu.inplace = False
    apart = record(module, x, tmp_path, gradients=True)
    kinds = {entry.kind for entry in apart.entries}
    assert kinds == {"activation", "code", "loss", "activation_gradient", "gradient"}
    assert_close(in_place, apart, 1e-7)
    assert compare(in_place, apart).only_a == compare(in_place, apart).only_b == ()


def test_hooks_are_taken_off_even_after_an_error(tmp_path):
    module = Shared()
    with pytest.raises(RuntimeError, match="expected input"):
        record(module, images(1, 4, 4, 4), tmp_path)
    assert not any(part._forward_hooks for part in module.modules())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_kept_as_float32(dtype, tmp_path):
    kind = getattr(torch, dtype)
    module, x = nn.Sequential(nn.Linear(8, 8), nn.GELU()).to(kind), images(2, 8).to(kind)
    made = record(module, x, tmp_path, gradients=True)
    assert made.made_by["dtype"] == dtype
    assert {e.dtype for e in made.entries if e.kind == "activation"} == {dtype}
    assert made["0"].dtype == np.float32
    with torch.no_grad():
        np.testing.assert_array_equal(made["0"], module[0](x).float())


def test_large_maps_are_subsampled_and_their_statistics_are_of_the_whole(tmp_path):
    x = images(1, 4, 512, 512)
    made = record(nn.Identity(), x, tmp_path)
    entry = made.entries[0]
    assert entry.stride == 2
    assert entry.shape == (1, 4, 512, 512)
    np.testing.assert_array_equal(entry.array, x[:, :, ::2, ::2])
    assert entry.digest == digest(x.numpy())
    assert entry.mean == pytest.approx(x.mean().item())
    assert entry.std == pytest.approx(x.std(correction=0).item())
    assert (entry.min, entry.max) == (x.min().item(), x.max().item())


@pytest.mark.parametrize("stride", [1, 3])
def test_a_stride_can_be_given(stride, tmp_path):
    x = images(1, 2, 7, 8)
    made = record(nn.Identity(), x, tmp_path, stride=stride)
    np.testing.assert_array_equal(made["output"], x[:, :, ::stride, ::stride])


def test_infinities_and_nan_are_counted(tmp_path):
    x = images(2, 3)
    x[0, 0], x[1, 2] = torch.inf, torch.nan
    entry = record(nn.Identity(), x, tmp_path).entries[0]
    assert entry.nonfinite == 2
    assert np.isfinite([entry.mean, entry.std, entry.min, entry.max]).all()


@pytest.mark.parametrize("train", [False, True])
def test_gradients_are_ours(train, tmp_path):
    twin = torch_twin.discriminator()
    weights = torch_twin.state_dict(twin)
    torch_twin.set_weights(twin, weights).train(train)
    theirs = torch_twin.recorded(twin, tmp_path / "b.trace", gradients=True)
    module, variables = from_torch("discriminator", weights)
    ours = trace(module, variables, torch_twin.image(), train=train, gradients=True)
    comparison = compare(ours, theirs)
    rows = [row for row in comparison.rows if row.kind != "buffer"]
    assert all(row.agrees for row in rows), comparison
    by_kind = {kind: {r.name for r in rows if r.kind == kind} for kind in ("loss", "gradient")}
    assert by_kind["loss"] == {"objective"}
    assert by_kind["gradient"] == {n for n, _ in twin.named_parameters()}
    convolutions = {n.removesuffix(".weight") for n in weights if n.endswith(".weight")}
    assert convolutions <= {row.name for row in rows if row.kind == "activation_gradient"}


def test_a_training_step_is_recorded(tmp_path):
    module, x = nn.Linear(4, 2), images(3, 4)
    before = module.weight.detach().clone()
    optimizer = torch.optim.SGD(module.parameters(), 0.5)

    def step():
        optimizer.zero_grad()
        loss = module(x).square().mean()
        loss.backward()
        optimizer.step()
        return {"l2": loss, "weight": 0.5}

    trace_torch.record_step(step, dict(module.named_parameters()), tmp_path / "s.trace")
    made = load(tmp_path / "s.trace")
    assert names(made, "loss") == ["l2", "weight"]
    assert names(made, "gradient") == names(made, "parameter") == ["weight", "bias"]
    after = before - 0.5 * torch.from_numpy(made["gradient/weight"])
    np.testing.assert_array_equal(made["parameter/weight"], after)
    assert made.weights["weight"]["digest"] == digest(before.numpy())


def test_the_command_loads_weights_and_inputs(tmp_path, monkeypatch):
    module, x = nn.Conv2d(3, 5, 3), images(1, 3, 8, 8)
    torch.save({"ema": module.state_dict()}, tmp_path / "w.pth")
    np.save(tmp_path / "x.npy", x.numpy())
    options = {
        "--module": "torch.nn:Conv2d",
        "--kwargs": json.dumps({"in_channels": 3, "out_channels": 5, "kernel_size": 3}),
        "--weights": str(tmp_path / "w.pth"),
        "--key": "ema",
        "--input": str(tmp_path / "x.npy"),
        "--output": str(tmp_path / "c.trace"),
    }
    words = [word for pair in options.items() for word in pair]
    monkeypatch.setattr(sys, "argv", ["trace_torch.py", *words, "--gradients", "--stride", "2"])
    trace_torch.main()
    with torch.no_grad():
        expected = module(x)
    made = load(tmp_path / "c.trace")
    np.testing.assert_array_equal(made["output"], expected[:, :, ::2, ::2])
    assert made.network == "Conv2d"
    assert names(made, "gradient") == ["weight", "bias"]
    with safetensors.safe_open(tmp_path / "c.trace", "numpy") as file:
        assert json.loads(file.metadata()["trace"])["inputs"]["0"]["digest"] == digest(x.numpy())
