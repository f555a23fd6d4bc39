"""Traces: the file, digests, strides and names."""

import dataclasses
import json
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from codeformer_jax import compare
from codeformer_jax.compare import Entry, Trace, TraceError, record
from codeformer_jax.compare.trace import digest
from codeformer_jax.system.keys import make_key


class Shared(nn.Module):
    """A layer that is called twice, and another after it."""

    @nn.compact
    def __call__(self, x):
        first = nn.Dense(4, name="layers_0")
        return nn.Dense(3, name="layers_1")(first(first(x)))


@pytest.fixture(scope="module")
def shared():
    module, x = Shared(), np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    return module, module.init(make_key(0), x), x


@pytest.fixture(scope="module")
def small(shared):
    module, variables, x = shared
    return compare.trace(module, variables, x, gradients=True)


def entries_of(array, **fields):
    entry = dataclasses.replace(Entry.whole("activation", "layer", array), **fields)
    return Trace((entry,), {"framework": "test"})


def test_a_trace_survives_its_file(small, tmp_path):
    small.save(tmp_path / "a.trace")
    loaded = compare.load(tmp_path / "a.trace")
    for field in dataclasses.fields(Trace):
        if field.name not in ("entries", "rerun"):
            assert getattr(loaded, field.name) == getattr(small, field.name)
    nothing = np.zeros(0)
    for a, b in zip(small.entries, loaded.entries, strict=True):
        assert np.array_equal(a.array, b.array)
        assert a.array.dtype == b.array.dtype
        assert dataclasses.replace(a, array=nothing) == dataclasses.replace(b, array=nothing)
    assert loaded.rerun is None


def test_repeated_modules_are_numbered(small):
    names = [entry.name for entry in small.entries if entry.kind == "activation"]
    assert names == ["layers.0", "layers.0#1", "layers.1", "output"]
    gradients = {entry.name for entry in small.entries if entry.kind == "gradient"}
    assert gradients == {f"layers.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")}
    assert small["gradient/layers.1.weight"].shape == (3, 4)
    with pytest.raises(KeyError):
        small["layers.2"]


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4, 5), (1, 70, 90, 3)])
def test_digests_are_equal_in_jax_and_numpy(shape):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for axes in {tuple(range(len(shape))), tuple(reversed(range(len(shape))))}:
        first, second = (int(part) for part in record._digest(jnp.asarray(array), axes))
        assert f"{first:08x}{second:08x}" == digest(array.transpose(axes))


def test_a_digest_tells_a_change_and_an_exchange():
    array = np.arange(6, dtype=np.float32)
    changed = array + np.float32(1e-6) * (array == 5)
    assert len({digest(array), digest(changed), digest(array[::-1])}) == 3


@pytest.fixture(scope="module")
def strided():
    """{stride: trace} of one map."""

    class Wave(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Conv(2, (1, 1), name="conv")(x)

    module = Wave()
    x = np.random.default_rng(0).normal(size=(1, 12, 12, 3)).astype(np.float32)
    variables = module.init(make_key(0), x)
    return {n: compare.trace(module, variables, x, stride=n) for n in (1, 2, 3)}


def test_traces_of_different_strides_meet_on_their_common_lattice(strided):
    assert [strided[n]["conv"].shape for n in (1, 2, 3)] == [(1, 2, n, n) for n in (12, 6, 4)]
    assert len({trace.entries[0].digest for trace in strided.values()}) == 1
    for n in (1, 3):
        found = compare.compare(strided[2], strided[n])
        assert found.agrees
        assert found.rows[0].max_abs == 0


@pytest.mark.parametrize(
    "stride",
    [
        3,
        2,
    ],
)
def test_the_place_of_the_largest_difference_is_that_in_the_whole_map(strided, stride):
    (conv, *_) = strided[3].entries
    changed = conv.array.copy()
    changed[0, 1, 2, 2] += 1  # Element [6, 6] of the map.
    other = dataclasses.replace(strided[3], entries=(dataclasses.replace(conv, array=changed),))
    row = compare.compare(strided[stride], other).first_difference
    assert row.max_abs == pytest.approx(1)
    assert row.where == (0, 1, 6, 6)


def test_bad_files_are_one_line(small, tmp_path):
    path = tmp_path / "a.trace"
    with pytest.raises(FileNotFoundError, match="no such file"):
        compare.load(path)
    small.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 9])
    with pytest.raises(TraceError, match="truncated"):
        compare.load(path)
    safetensors.numpy.save_file({"x": np.zeros(1)}, path)
    with pytest.raises(TraceError, match="not a trace"):
        compare.load(path)
    header = json.dumps({"format": "codeformer-jax trace", "version": 2, "entries": []})
    safetensors.numpy.save_file({"x": np.zeros(1)}, path, {"trace": header})
    with pytest.raises(TraceError, match=r"version 2; this version reads 1: update"):
        compare.load(path)


def test_assert_close_names_the_layer():
    a, b = (entries_of(np.full((2, 3), value)) for value in (1.0, 1.1))
    compare.assert_close(a, a)
    compare.assert_close(a, b, tolerance=0.2)
    with pytest.raises(AssertionError, match="first layer that differs: layer, relative L2 9"):
        compare.assert_close(a, b)


def test_infinities_never_agree():
    array = np.array([1.0, np.inf])
    found = compare.compare(entries_of(array), entries_of(array))
    assert not found.agrees
    assert found.first_nonfinite.nonfinite == (1, 1)
    # One that the stride has left out.
    found = compare.compare(entries_of(np.ones(2), nonfinite=1), entries_of(np.ones(2)))
    assert not found.agrees
    assert found.first_difference is None
    assert "infinities or NaN: layer (1 values in A, 0 in B)" in found.summary()


def test_the_other_side_meets_ours(shared, small, tmp_path):
    torch = pytest.importorskip("torch")
    from codeformer_jax.compare import trace_torch  # noqa: PLC0415

    class Twin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Linear(4, 4), torch.nn.Linear(4, 3)])

        def forward(self, x):
            return self.layers[1](self.layers[0](self.layers[0](x)))

    _, variables, x = shared
    table = record.torch_table("Shared", jax.device_get(variables))
    twin = Twin()
    twin.load_state_dict({n: torch.from_numpy(np.array(array)) for n, array in table.items()})
    trace_torch.record(twin, torch.from_numpy(x), tmp_path / "b.trace", gradients=True)
    theirs = compare.load(tmp_path / "b.trace")
    assert theirs.inputs == small.inputs
    assert {n: w["digest"] for n, w in theirs.weights.items()} == {
        n: w["digest"] for n, w in small.weights.items()
    }
    found = compare.compare(small, theirs)
    assert found.agrees
    assert not found.only_a
    assert not found.only_b
    assert {row.by for row in found.rows} == {"name"}
    assert {row.kind for row in found.rows} == {
        *("activation", "loss", "activation_gradient", "gradient")
    }
    assert "torch" in found.made_by[1]["framework"]


def test_without_pytorch_its_script_says_so_in_one_line(tmp_path):
    script = record.__file__.replace("record.py", "trace_torch.py")
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")")
    done = subprocess.run(
        [sys.executable, script, "--help"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "No module named 'torch'" in line
    assert "pip install torch" in line
