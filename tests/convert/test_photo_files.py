"""Names, hyperparameters and packaging of RetinaFace, ParseNet and RRDBNet."""

import jax
import numpy as np
import pytest
from convert.test_from_torch import assert_same_tables, assert_same_variables

from codeformer_jax.compare.layout import module_names
from codeformer_jax.convert import (
    ConversionError,
    convert_file,
    detect_network,
    from_torch,
    load_model,
    to_torch,
    write_pth,
)
from codeformer_jax.convert.names import entries_of, flatten
from codeformer_jax.convert.networks import build_module, expected_variables, lookup
from codeformer_jax.nn import ParseNet, RetinaFace, RRDBNet

PUBLISHED = {
    "retinaface_resnet50_0": RetinaFace(),
    "retinaface_mobile0.25_0": RetinaFace("mobilenet", stem=8, width=64),
    "parsenet_0": ParseNet(),
    "rrdbnet_x2_0": RRDBNet(),
}
SMALL = {
    "retinaface": RetinaFace("mobilenet", stem=2, width=8),
    "parsenet": ParseNet(widths=(4, 6, 8), res_blocks=2, classes=5),
    "rrdbnet": RRDBNet(scale=4, width=4, blocks=2, growth=3),
}


def small_table(network):
    """PyTorch table of a small network with random weights."""
    rng = np.random.RandomState(0)
    expected = expected_variables(network, SMALL[network])
    drawn = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(x.dtype), expected)
    return to_torch(network, drawn), drawn


@pytest.mark.parametrize(
    "fixture",
    [
        pytest.param(name, marks=pytest.mark.slow) if name == "rrdbnet_x2_0" else name
        for name in PUBLISHED
    ],
)
def test_published_sizes_are_read_off_shapes(fixture, shapes_of):
    network, shapes = fixture.split("_")[0], shapes_of(fixture)
    spec = lookup(network)
    module = build_module(network, spec.read(shapes, {}))
    assert module == PUBLISHED[fixture]
    flat = flatten(expected_variables(network, module))
    found = {
        name: entry.torch_shape(flat[entry.path].shape)
        for name, entry in entries_of(flat, spec.torch_name).items()
    }
    counts = {name: shape for name, shape in shapes.items() if name.endswith("batches_tracked")}
    assert found | counts == shapes


@pytest.mark.slow
@pytest.mark.parametrize("fixture", PUBLISHED)
def test_published_tables_round_trip_bit_for_bit(fixture, table_of):
    table = table_of(fixture)
    network = fixture.split("_")[0]
    assert detect_network(table) == network
    module, variables = from_torch(network, table)
    assert module == PUBLISHED[fixture]
    assert_same_tables(to_torch(network, variables), table)


@pytest.mark.parametrize("network", SMALL)
def test_small_tables_round_trip_bit_for_bit(network):
    table, drawn = small_table(network)
    assert detect_network(table) == network
    module, variables = from_torch(network, table)
    assert module == SMALL[network]
    assert_same_variables(variables, drawn)
    assert_same_tables(to_torch(network, variables), table)


@pytest.mark.parametrize(
    ("network", "packed"),
    [
        ("retinaface", lambda table: {f"module.{name}": array for name, array in table.items()}),
        ("parsenet", lambda table: table),
        ("rrdbnet", lambda table: {"params_ema": table}),
        ("rrdbnet", lambda table: {"params": table}),
    ],
)
def test_published_packaging_converts_and_comes_back(network, packed, tmp_path):
    table, drawn = small_table(network)
    write_pth(tmp_path / "net.pth", packed(table))
    summary = convert_file(tmp_path / "net.pth", tmp_path / "net.safetensors")
    found, module, variables = load_model(summary.target)
    assert (found, module, summary.note) == (network, SMALL[network], "")
    assert_same_variables(variables, drawn)
    back = convert_file(summary.target, tmp_path / "back.pth", to_torch=True)
    again = convert_file(back.target, tmp_path / "again.safetensors")
    assert_same_variables(load_model(again.target)[2], drawn)


def test_another_scale_is_read_and_a_wrong_one_refused():
    table, _ = small_table("rrdbnet")
    for scale, channels in ((4, 3), (2, 12), (1, 48)):
        first = {"conv_first.weight": np.zeros((4, channels, 3, 3), np.float32)}
        assert from_torch("rrdbnet", {**table, **first})[0].scale == scale
    first = {"conv_first.weight": np.zeros((4, 27, 3, 3), np.float32)}
    with pytest.raises(ConversionError, match=r"conv_first\.weight \[4, 27, 3, 3\], expected"):
        from_torch("rrdbnet", {**table, **first})


@pytest.mark.parametrize("network", SMALL)
def test_missing_and_leftover_names_are_listed(network):
    table, _ = small_table(network)
    del table[gone := next(name for name in table if name.endswith(".weight"))]
    with pytest.raises(ConversionError, match=rf"missing \(1\):\n    {gone}"):
        from_torch(network, table)
    with pytest.raises(ConversionError, match=r"unexpected \(1\):\n    extra \[1\]"):
        from_torch(network, {**small_table(network)[0], "extra": np.zeros(1, np.float32)})


@pytest.mark.parametrize("network", SMALL)
def test_traces_name_the_layers_as_pytorch_does(network):
    table, drawn = small_table(network)
    paths = {path[1:-1] for path in flatten(drawn) if path[0] == "params"}
    named = module_names(network, drawn, paths)
    assert {f"{name}.weight" for name in named.values()} == {
        name for name in table if name.endswith(".weight")
    }
