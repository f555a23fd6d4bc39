"""Faults planted in a PyTorch twin, one at a time: the layer is named, and the suspect.

Where no suspect is expected the fault is of a kind that `compare/variations.py` does not try.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from compare import torch_twin  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks import torch_codeformer  # noqa: E402
from codeformer_jax.compare import compare, trace  # noqa: E402
from codeformer_jax.convert import from_torch  # noqa: E402

CALL = {"w": 1.0, "use_adain": True}


class Fault(NamedTuple):
    """A mistake: what it does to a twin, and what the tool should say.

    Attributes:
        plant: (twin, monkeypatch) -> None.
        layer: the first entry that differs.
        suspect: name of the suspect that makes the difference vanish, None for a kind that has
            none.
        detail: text that the suspect's detail holds.
        kind: kind of the entry.
    """

    plant: Callable[[Any, Any], None]
    layer: str
    suspect: str | None
    detail: str = ""
    kind: str = "activation"


def change_output(module, change):
    """Makes a module return change(input, output)."""
    module.register_forward_hook(lambda _, args, output: change(args[0], output))


def change_input(module, change):
    module.register_forward_pre_hook(lambda _, args: (change(args[0]), *args[1:]))


def transpose(net, _):
    weight = net.encoder.blocks[1].conv1.weight
    weight.data = weight.data.transpose(0, 1).contiguous()


def swap_rows_and_columns(net, _):
    weight = net.generator.blocks[0].weight
    weight.data = weight.data.transpose(2, 3).contiguous()


def swap_input_channels(net, _):
    change_input(net.encoder.blocks[0], lambda x: x.flip(1))


def swap_output_channels(net, _):
    change_output(net.generator.blocks[-1], lambda _, y: y.flip(1))


def shift_range(net, _):
    change_input(net.encoder.blocks[0], lambda x: (x + 1) / 2)


def set_epsilon(net, _):
    net.encoder.blocks[1].norm1.eps = 1e-4


def set_layer_epsilon(net, _):
    net.ft_layers[0].norm1.eps = 1e-3


def approximate_gelu(_, monkeypatch):
    changed = functools.partial(F.gelu, approximate="tanh")
    monkeypatch.setattr(torch_codeformer, "F", _functional(gelu=changed))


def use_relu(_, monkeypatch):
    monkeypatch.setattr(torch_codeformer, "F", _functional(silu=F.relu))


def pad_top_left(_, monkeypatch):
    def pad(x, amounts):
        left, right, top, bottom = amounts
        return F.pad(x, (right, left, bottom, top))

    monkeypatch.setattr(torch_codeformer, "F", _functional(pad=pad))


def reflect(net, _):
    net.generator.blocks[0].padding_mode = "reflect"


def enlarge(align_corners):
    def plant(_, monkeypatch):
        def interpolate(x, **_):
            return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=align_corners)

        monkeypatch.setattr(torch_codeformer, "F", _functional(interpolate=interpolate))

    return plant


def _functional(**changed):
    """torch.nn.functional with other functions."""
    names = ("silu", "gelu", "pad", "interpolate", "scaled_dot_product_attention")
    functions = {name: getattr(F, name) for name in names} | changed
    return type("functional", (), {name: staticmethod(f) for name, f in functions.items()})


def drop_bias(net, _):
    net.encoder.blocks[0].bias = None


def drop_affine(net, _):
    norm = net.idx_pred_layer[0]
    norm.weight = norm.bias = None


def halve_heads(net, _):
    attention = net.ft_layers[1].self_attn
    attention.num_heads, attention.head_dim = 2, attention.embed_dim // 2


def set_groups(net, _):
    net.generator.blocks[1].norm1.num_groups = 16


def drop_residual(net, _):
    change_output(net.encoder.blocks[2], lambda x, y: y - x)


def change_slope(net, _):
    net.fuse_convs_dict["16"].scale[1].negative_slope = 0.01


def round_weights(net, _):
    net.half().float()


def load_other_weights(net, _):
    torch_twin.set_weights(net, torch_twin.state_dict(net, seed=1))


def exchange_queries_and_keys(net, _):
    block = next(b for b in net.encoder.blocks if isinstance(b, torch_codeformer.AttnBlock))
    block.q, block.k = nn.Sequential(block.k), nn.Sequential(block.q)


def leave_out_positions(net, _):
    net.position_emb.data.zero_()


FAULTS = {
    "transposed kernel": Fault(transpose, "encoder.blocks.1.conv1", "transposed kernel"),
    "rows and columns": Fault(
        swap_rows_and_columns, "generator.blocks.0", "transposed kernel", "rows"
    ),
    "BGR input": Fault(
        swap_input_channels, "encoder.blocks.0", "swapped channels (RGB/BGR)", "of the input"
    ),
    "BGR output": Fault(
        swap_output_channels, "generator.blocks.12", "swapped channels (RGB/BGR)", "of the output"
    ),
    "[0, 1]": Fault(shift_range, "encoder.blocks.0", "range of the input", "[0, 1] there"),
    "epsilon of GroupNorm": Fault(
        set_epsilon, "encoder.blocks.1.norm1", "epsilon of a norm", "0.0001"
    ),
    "epsilon of LayerNorm": Fault(
        set_layer_epsilon, "ft_layers.0.norm1", "epsilon of a norm", "0.001"
    ),
    "tanh GELU": Fault(
        approximate_gelu, "ft_layers.0.linear2", "tanh or erf in GELU", "GELU (tanh) there"
    ),
    "ReLU for SiLU": Fault(
        use_relu, "encoder.blocks.1.conv1", "activation before the layer", "ReLU there, SiLU here"
    ),
    "slope of LeakyReLU": Fault(
        change_slope, "fuse_convs_dict.16.scale.2", "activation before the layer", "0.01 there"
    ),
    "padding side": Fault(pad_top_left, "encoder.blocks.3.conv", "padding side", "1 before and"),
    "padding mode": Fault(reflect, "generator.blocks.0", "padding mode", "reflect"),
    "align_corners": Fault(
        enlarge(True), "generator.blocks.8.conv", "align_corners of a resize", "=True"
    ),
    "bilinear": Fault(
        enlarge(False), "generator.blocks.8.conv", "align_corners of a resize", "=False"
    ),
    "missing bias": Fault(drop_bias, "encoder.blocks.0", "missing bias"),
    "norm without scale": Fault(
        drop_affine, "idx_pred_layer.0", "missing scale and bias of a norm"
    ),
    "heads": Fault(halve_heads, "ft_layers.1.self_attn.0", "number of heads", "2"),
    "groups": Fault(set_groups, "generator.blocks.1.norm1", "number of groups of a norm", "16"),
    "missing residual": Fault(drop_residual, "encoder.blocks.2", "missing residual"),
    "rounded weights": Fault(round_weights, "encoder.blocks.0", "rounded weights", "float16"),
    "stale weights": Fault(load_other_weights, "encoder.blocks.0", "stale weights", "'params'"),
    "queries and keys exchanged": Fault(exchange_queries_and_keys, "encoder.blocks.5.q", None),
    "no positions": Fault(leave_out_positions, "ft_layers.0.self_attn.0", None),
}


def swap_momentum(net, _):
    net.train()
    net.main[3].momentum = 0.9


def normalise_by_batch(net, _):
    net.train()


# The discriminator is recorded in training mode on our side for the first, else in evaluation mode.
NORM_FAULTS = {
    "momentum": (
        True,
        Fault(swap_momentum, "main.3.running_mean", "momentum convention", "0.1 of", "buffer"),
    ),
    "mode": (False, Fault(normalise_by_batch, "main.3", "mode of BatchNorm", "the batch's")),
    "unbiased": (
        True,
        Fault(normalise_by_batch, "main.3.running_var", "unbiased variance", "n - 1", "buffer"),
    ),
}


@pytest.fixture(scope="module")
def codeformer():
    """Our trace of the converted network; its file also has the weights 'params'."""
    twin = torch_twin.codeformer()
    module, variables = _converted("codeformer", torch_twin.state_dict(twin))
    _, stale = _converted("codeformer", torch_twin.state_dict(twin, seed=1))
    ours = trace(module, variables, torch_twin.image(), w=1.0, adain=True)
    rerun = dataclasses.replace(ours.rerun, others={"params": stale})
    return dataclasses.replace(ours, rerun=rerun)


def _converted(network, weights):
    fields = {"image_size": torch_twin.SIZE, "n_head": torch_twin.HEADS}
    return from_torch(network, weights, **(fields if network == "codeformer" else {}))


@pytest.fixture(scope="module")
def discriminators():
    """{train: our trace of the converted discriminator}."""
    module, variables = _converted(
        "discriminator", torch_twin.state_dict(torch_twin.discriminator())
    )
    image = torch_twin.image()
    return {train: trace(module, variables, image, train=train) for train in (False, True)}


def theirs(twin, fault, monkeypatch, tmp_path, **options):
    """Trace of a twin with a fault."""
    torch_twin.set_weights(twin, torch_twin.state_dict(twin))
    if fault is not None:
        fault.plant(twin, monkeypatch)
    return torch_twin.recorded(twin, tmp_path / "b.trace", **options)


def check(fault, comparison):
    first = comparison.first_difference
    assert (first.kind, first.name) == (fault.kind, fault.layer), comparison
    assert first.by == "name"
    found = comparison.explanation
    assert (found and found.name) == fault.suspect, comparison.summary()
    assert found is None or fault.detail in found.detail
    named = fault.layer if fault.kind == "activation" else f"buffer of {fault.layer}"
    assert f"first layer that differs: {named}, relative L2" in comparison.summary()


@pytest.mark.parametrize("network", ["codeformer", "discriminator"])
def test_every_layer_agrees_without_a_fault(network, codeformer, discriminators, tmp_path):
    ours = {"codeformer": codeformer, "discriminator": discriminators[False]}[network]
    twin = getattr(torch_twin, network)()
    call = CALL if network == "codeformer" else None
    comparison = compare(ours, theirs(twin, None, None, tmp_path, call=call))
    assert comparison.agrees, comparison
    assert comparison.worst.relative_l2 < 1e-5
    compared = {row.name.partition("#")[0] for row in comparison.rows}
    layers = {name.rpartition(".")[0] for name in ours.weights if "self_attn" not in name}
    # Neither is called as a module.
    assert layers - compared <= {"", "quantize.embedding"}


# The others take a minute and a half; each is found in the same way as one of these.
FAST = ("transposed kernel", "BGR input", "epsilon of GroupNorm", "tanh GELU", "heads")


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=name, marks=[] if name in FAST else [pytest.mark.slow])
        for name, fault in FAULTS.items()
    ],
)
def test_a_fault_of_codeformer_is_named(fault, codeformer, monkeypatch, tmp_path):
    twin = torch_twin.codeformer()
    comparison = compare(
        codeformer, theirs(twin, fault, monkeypatch, tmp_path, call=CALL), force=True
    )
    check(fault, comparison)


@pytest.mark.parametrize(("train", "fault"), NORM_FAULTS.values(), ids=NORM_FAULTS)
def test_a_fault_of_batch_norm_is_named(train, fault, discriminators, monkeypatch, tmp_path):
    twin = torch_twin.discriminator()
    comparison = compare(discriminators[train], theirs(twin, fault, monkeypatch, tmp_path))
    check(fault, comparison)


def test_every_usual_suspect_is_planted():
    faults = [*FAULTS.values(), *(fault for _, fault in NORM_FAULTS.values())]
    planted = {fault.suspect for fault in faults}
    assert planted >= {
        "transposed kernel",
        "swapped channels (RGB/BGR)",
        "range of the input",
        "epsilon of a norm",
        "tanh or erf in GELU",
        "padding side",
        "align_corners of a resize",
        "momentum convention",
        "missing bias",
        "number of heads",
        "stale weights",
    }
