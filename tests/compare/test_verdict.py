"""What a comparison says in awkward cases."""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax import cli
from codeformer_jax.compare import Entry, Trace, compare, load, sources, trace

X = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)


def trace_of(kind="activation", **arrays):
    return Trace(tuple(Entry.whole(kind, name, array) for name, array in arrays.items()), {})


class Pair(NamedTuple):
    first: jax.Array
    second: jax.Array


class Sum(nn.Module):
    @nn.compact
    def __call__(self, pair):
        return nn.Dense(3, name="head")(pair.first + pair.second)


class Net(nn.Module):
    use_bias: bool = True

    @nn.compact
    def __call__(self, x):
        y = Sum(name="sum")(Pair(x, 2 * x))
        return nn.Dense(2, name="out", use_bias=self.use_bias)(nn.relu(y))


@pytest.fixture(scope="module")
def net():
    variables = Net().init(jax.random.key(0), X)
    return jax.tree.map(lambda x: x + 0.1, variables)


def changed(traced, name, change):
    entries = [
        dataclasses.replace(e, array=change(e.array)) if e.name == name else e
        for e in traced.entries
    ]
    return dataclasses.replace(traced, entries=tuple(entries), rerun=None)


def test_zeros_and_infinities_are_not_identical():
    zero = compare(trace_of(x=X), trace_of(x=0 * X))
    assert "first layer that differs: x, all zeros in B" in zero.summary()
    infinite = compare(trace_of(x=np.where(X > 0, X, np.inf).astype(np.float32)), trace_of(x=X))
    assert "first layer that differs: x, " in infinite.summary()
    assert "identical" not in infinite.summary()
    assert not infinite.agrees


def test_a_layer_that_takes_a_tuple_has_suspects(net):
    ours = trace(Net(), net, X)
    comparison = compare(ours, changed(ours, "sum", np.tanh))
    assert comparison.first_difference.name == "sum"
    assert comparison.explanation.name == "activation after the layer"


def test_a_bias_that_only_the_other_side_has_is_a_suspect(net):
    params = dict(net["params"])
    params["out"] = {"kernel": params["out"]["kernel"]}
    ours = trace(Net(use_bias=False), {"params": params}, X)
    comparison = compare(ours, trace(Net(), net, X))
    assert comparison.first_difference.name == "out"
    assert comparison.explanation.name == "missing bias"
    assert comparison.explanation.detail == "this side adds none"


def test_what_no_suspect_explains_is_said(net):
    ours = trace(Net(), net, X)
    other = changed(ours, "out", lambda y: 100 * X[:, :2])
    assert "no suspect: none of them explains it" in compare(ours, other).summary()
    loss = compare(trace_of("loss", l1=np.float32(1)), trace_of("loss", l1=np.float32(2)))
    assert "no suspect" in loss.summary()


def test_a_network_that_has_changed_since_its_trace_is_not_asked(net):
    ours = trace(Net(), net, X)
    edited = jax.tree.map(lambda x: -x, net)
    ours = dataclasses.replace(ours, rerun=dataclasses.replace(ours.rerun, variables=edited))
    comparison = compare(ours, changed(ours, "sum.head", lambda y: y + 0.01))
    assert "record the trace again" in comparison.untried


def test_flips_of_all_entries_are_sorted_by_their_margin():
    def side(first, second):
        codes = {"a": np.int32([[0, first]]), "b": np.int32([[0, second]])}
        margins = {"a": np.float32([[1, 0.8]]), "b": np.float32([[1, 0.1]])}
        found = [Entry.whole("code", name, array) for name, array in codes.items()]
        found += [Entry.whole("margin", name, array) for name, array in margins.items()]
        return Trace(tuple(found), {})

    flips = compare(side(1, 1), side(2, 2)).flips
    assert [flip.name for flip in flips] == ["b", "a"]


def test_other_calls_are_a_note():
    a, b = (dataclasses.replace(trace_of(x=X), call={"w": w}) for w in (0.5, 1.0))
    assert "note: the calls differ: w=0.5 in A and 1.0 in B" in compare(a, b).summary()


def test_entries_without_a_counterpart_are_named_with_their_kind():
    gradient = Entry.whole("gradient", "x", X)
    a = dataclasses.replace(trace_of(x=X), entries=(*trace_of(x=X).entries, gradient))
    assert compare(a, trace_of(x=X)).only_a == ("gradient: x",)


def test_digests_are_those_of_32_bits_with_64_bits_enabled(net):
    narrow = trace(Net(), net, X)
    with jax.enable_x64(True):
        wide = trace(Net(), net, X)
    assert [e.digest for e in wide.entries] == [e.digest for e in narrow.entries]
    assert {len(e.digest) for e in wide.entries} == {16}


def test_a_saved_trace_in_float64_is_computed_again(tmp_path):
    from codeformer_jax import convert, nn  # noqa: PLC0415

    module = nn.PatchDiscriminator(ndf=4, n_layers=1)
    image = np.zeros((1, 16, 16, 3), np.float32)
    variables = module.init(jax.random.key(0), image, train=False)
    convert.save_model(tmp_path / "d.safetensors", "discriminator", module, variables)
    np.save(tmp_path / "x.npy", image + np.float32(0.1))
    files = tmp_path / "d.safetensors", [tmp_path / "x.npy"]
    sources.trace_files(*files, dtype="float64").save(tmp_path / "a.trace")
    saved = load(tmp_path / "a.trace")
    again = sources.restored(saved).rerun
    assert again.args[0].dtype == jnp.float64 or np.asarray(again.args[0]).dtype == np.float64
    entry = saved.entries[1]
    other = changed(saved, entry.name, lambda y: y + 1)
    assert "changed since" not in compare(saved, other).untried


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--ladder", "a", "b", "-o", "r.html"], "--ladder takes no --output"),
        (["compare", "a", "b", "--key", "x"], "a comparison of traces takes no --key"),
        (["compare", "a", "b", "c"], "two traces are compared; got 3"),
        (
            ["trace", "a", "b", "--step", "-o", "c", "--dtype", "bfloat16"],
            "--step takes no --dtype",
        ),
        (["trace", "a", "b", "-o", "c", "--save-input", "x.txt"], "must end in .npy"),
    ],
)
def test_options_without_effect_are_refused(arguments, message, capsys):
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_tolerance_that_is_no_number_is_refused(capsys):
    with pytest.raises(SystemExit):
        cli.main(["compare", "a", "b", "--tolerance", "abc"])
    assert "'abc' is not a number of at least 0" in capsys.readouterr().err
