"""Entries of two traces meet by name, by the converter's names, or by shape and order."""

import dataclasses
import json
import re

import numpy as np
import pytest
from parity import support
from parity.seeded import seeded_state_dict

from codeformer_jax.compare import Entry, Trace, TraceError, compare
from codeformer_jax.compare.match import pair
from codeformer_jax.compare.record import describe_weights
from codeformer_jax.convert import to_torch

RNG = np.random.default_rng(0)
# Names of Taming's VQGAN -> those of `diffusers`, for a network of two levels.
DIFFUSERS = (
    (r"\.mid\.block_1\b", ".mid_block.resnets.0"),
    (r"\.mid\.block_2\b", ".mid_block.resnets.1"),
    (r"\.mid\.attn_1\b", ".mid_block.attentions.0"),
    (r"\.down\.(\d)", r".down_blocks.\1"),
    (r"\.up\.(\d)", lambda match: f".up_blocks.{1 - int(match[1])}"),
    (r"\.block\.", ".resnets."),
    (r"\.attn\.", ".attentions."),
    (r"\.(down|up)sample\b", r".\1samplers.0"),
    (r"\.nin_shortcut\b", ".conv_shortcut"),
    (r"\.norm$", ".group_norm"),
    (r"\.([qkv])$", r".to_\1"),
    (r"\.proj_out$", ".to_out.0"),
    (r"\.norm_out$", ".conv_norm_out"),
)


def entry(name, *shape, kind="activation"):
    return Entry.whole(kind, name, RNG.normal(size=shape).astype(np.float32))


def made(*entries, weights=(), network=""):
    return Trace(
        tuple(entries),
        {},
        network,
        weights={name: {"shape": [1], "digest": ""} for name in weights},
    )


def pairs(a, b):
    found, left, other = pair(a, b)
    by = {p.ours.name: (p.theirs.name, p.by) for p in found}
    return by, [e.name for e in left], [e.name for e in other]


@pytest.fixture(scope="module")
def taming():
    """A trace with an entry per module with weights, and the same one under other names."""
    shapes = json.loads(str(support.load("taming_vqgan_small")["shapes"]))
    shapes = {n: s for n, s in shapes.items() if ".up.2" not in n and ".down.2" not in n}
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in shapes))
    entries = [entry(name, 1, 1 + i) for i, name in enumerate(modules)]
    return made(*entries, weights=shapes, network="taming_vqgan")


def renamed(trace, rename):
    """A trace with other names."""
    return dataclasses.replace(
        trace,
        network="Other",
        entries=tuple(dataclasses.replace(e, name=rename(e.name)) for e in trace.entries),
        weights={_of_parameter(name, rename): value for name, value in trace.weights.items()},
    )


def _of_parameter(name, rename):
    module, _, leaf = name.rpartition(".")
    return f"{rename(module)}.{leaf}"


def to_diffusers(name):
    for pattern, replacement in DIFFUSERS:
        name = re.sub(pattern, replacement, name)
    return name


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_wrapper_is_seen_through(wrapper, taming):
    found, left, other = pairs(taming, renamed(taming, lambda name: wrapper + name))
    assert found == {e.name: (wrapper + e.name, "converter") for e in taming.entries}
    assert left == other == []


def test_names_of_diffusers_meet_through_the_converter(taming):
    there = renamed(taming, to_diffusers)
    assert {"encoder.down_blocks.0.resnets.0.conv1", "decoder.mid_block.attentions.0.to_q"} <= {
        e.name for e in there.entries
    }
    for a, b in ((taming, there), (there, taming)):
        found, left, other = pairs(a, b)
        expected = zip(a.entries, b.entries, strict=True)
        assert found == {
            x.name: (y.name, "name" if x.name == y.name else "converter") for x, y in expected
        }
        assert left == other == []
    comparison = compare(taming, there)
    assert comparison.agrees
    assert {row.by for row in comparison.rows} == {"name", "converter"}


def test_the_names_are_those_of_a_published_file():
    """The fixture holds the names of `diffusers` 0.30.3."""
    published = json.loads(str(support.load("diffusers_vqmodel")["shapes"]))
    weights = describe_weights(seeded_state_dict(published, 0))
    theirs = made(*(entry(name.rpartition(".")[0], 1, 2) for name in published if "bias" in name))
    theirs = dataclasses.replace(theirs, weights=weights)
    module, variables = support.seeded(
        "taming_vqgan", support.load("diffusers_vqmodel"), image_size=32, norm_groups=16
    )
    ours = [
        entry(path, 1, 2)
        for path in _modules(module, variables)
        if path not in ("quantize.embedding", "")
    ]
    found, left, other = pairs(made(*ours, network="taming_vqgan"), theirs)
    assert left == other == []
    assert len(found) == len(ours)
    assert found["decoder.up.1.block.0.conv1"] == (
        "decoder.up_blocks.0.resnets.0.conv1",
        "converter",
    )


def _modules(module, variables):
    table = to_torch("taming_vqgan", variables, module)
    return list(dict.fromkeys(name.rpartition(".")[0] for name in table))


def test_a_renamed_port_meets_by_shape_and_order():
    a = made(*(entry(f"a{i}", 2, 3 + i) for i in range(5)))
    b = made(*(entry(f"layers.{i}", *e.shape) for i, e in enumerate(a.entries) if i != 2))
    found, left, other = pairs(a, b)
    assert found == {f"a{i}": (f"layers.{i}", "order") for i in (0, 1, 3, 4)}
    assert left == ["a2"]
    assert other == []
    row = compare(a, b).rows[0]
    assert (row.name, row.other, row.by) == ("a0", "layers.0", "order")
    assert "a0 (layers.0 in B, paired by order)" in compare(a, b).summary()


def test_kinds_do_not_meet_each_other():
    a = made(entry("x", 2, 3), entry("y", 2, 3, kind="gradient"))
    b = made(entry("p", 2, 3, kind="gradient"), entry("q", 2, 3))
    found, *_ = pairs(a, b)
    assert all(p[0] != "p" for name, p in found.items() if name == "x")


def test_order_decides_nothing_where_most_names_meet():
    a = made(entry("a", 2), entry("b", 3), entry("c", 4))
    b = made(entry("a", 2), entry("b", 3), entry("d", 4))
    found, left, other = pairs(a, b)
    assert found.keys() == {"a", "b"}
    assert left == ["c"]
    assert other == ["d"]


def test_unrelated_traces_are_refused():
    a = made(entry("encoder.conv", 1, 8, 4, 4))
    b = made(entry("layers.0.attention", 2, 77, 64))
    with pytest.raises(TraceError, match=r"'encoder\.conv' and 'layers\.0\.attention'"):
        compare(a, b)


def test_an_empty_trace_is_refused():
    with pytest.raises(TraceError, match=r"'a' and '\(none\)'"):
        compare(made(entry("a", 2)), made())
