"""Names, layouts and hyperparameters: the fixtures' tables are those of the PyTorch networks."""

import functools
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from codeformer_jax.convert import ConversionError, detect_network, from_torch, to_torch
from codeformer_jax.convert.hyperparameters import read_codeformer, read_vqgan
from codeformer_jax.convert.names import entries_of, flatten
from codeformer_jax.convert.networks import build_module, expected_variables
from codeformer_jax.nn import LPIPS, VQGAN, CodeFormer

SMALL = {
    "image_size": 64,
    "nf": 32,
    "ch_mult": (1, 2, 2),
    "res_blocks": 2,
    "attn_resolutions": (16,),
    "codebook_size": 128,
    "emb_dim": 64,
}
TINY = {
    "image_size": 32,
    "nf": 4,
    "ch_mult": (1, 2, 4),
    "res_blocks": 1,
    "attn_resolutions": (32, 8),
    "codebook_size": 8,
    "emb_dim": 6,
    "norm_groups": 2,
}


def assert_same_tables(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].flags.c_contiguous, name
        assert found[name].tobytes() == array.tobytes(), name


def assert_same_variables(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), path
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), path


@functools.cache
def tiny_codeformer():
    module = CodeFormer(**TINY, dim_embd=16, n_head=8, n_layers=2, connect_list=(8, 32))
    rng = np.random.RandomState(0)
    expected = expected_variables("codeformer", module)
    return module, jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(x.dtype), expected)


@pytest.mark.parametrize(
    ("fixture", "network", "given", "fields"),
    [
        ("vqgan_small_0", "vqgan", {"image_size": 64}, {**SMALL, "quantizer": "nearest"}),
        ("vqgan_gumbel_0", "vqgan", {"image_size": 64}, {**SMALL, "quantizer": "gumbel"}),
        ("discriminator_0", "discriminator", {}, {"ndf": 32, "n_layers": 3}),
    ],
)
def test_seeded_tables_round_trip_bit_for_bit(fixture, network, given, fields, table_of):
    table = table_of(fixture)
    assert detect_network(table) == network
    module, variables = from_torch(network, table, **given)
    assert {name: getattr(module, name) for name in fields} == fields
    back = to_torch(network, variables)
    assert_same_tables(back, table)
    again_module, again = from_torch(network, back, **given)
    assert again_module == module
    assert_same_variables(again, variables)


@pytest.mark.slow
def test_full_codeformer_round_trips_bit_for_bit(table_of):
    table = table_of("codeformer_0")
    assert detect_network(table) == "codeformer"
    module, variables = from_torch("codeformer", table)
    assert module == CodeFormer()
    assert_same_tables(to_torch("codeformer", variables), table)


@pytest.mark.parametrize(
    ("fixture", "network", "read", "default"),
    [
        ("vqgan_full_0", "vqgan", read_vqgan, VQGAN()),
        ("codeformer_0", "codeformer", read_codeformer, CodeFormer()),
    ],
)
def test_published_sizes_are_read_off_shapes(fixture, network, read, default, shapes_of):
    shapes = shapes_of(fixture)
    module = build_module(network, read(shapes, {}))
    assert module == default
    flat = flatten(expected_variables(network, module))
    assert shapes == {n: e.torch_shape(flat[e.path].shape) for n, e in entries_of(flat).items()}


def test_codeformer_hyperparameters_are_read():
    module, variables = tiny_codeformer()
    table = to_torch("codeformer", variables)
    found, again = from_torch("codeformer", table, norm_groups=2)
    assert found == module
    assert_same_variables(again, variables)
    # What does not show has its default, what is given wins.
    given = {"norm_groups": 2, "n_head": 4, "beta": 1.0, "dtype": "bfloat16"}
    found, _ = from_torch("codeformer", table, **given)
    assert (found.n_head, found.beta, found.dtype) == (4, 1.0, jnp.bfloat16)
    assert hash(found) == hash(module.clone(n_head=4, beta=1.0, dtype=jnp.bfloat16))


def test_a_vqgan_without_image_size_takes_the_published_one(table_of):
    module, _ = from_torch("vqgan", table_of("vqgan_small_0"))
    assert (module.image_size, module.attn_resolutions) == (512, (128,))


@pytest.mark.parametrize(
    ("name", "path", "axes"),
    [
        ("encoder.blocks.3.conv.weight", "params/encoder/blocks_3/conv/kernel", (2, 3, 1, 0)),
        ("encoder.blocks.1.norm1.weight", "params/encoder/blocks_1/norm1/scale", (0,)),
        ("generator.blocks.0.weight", "params/generator/blocks_0/kernel", (2, 3, 1, 0)),
        ("quantize.embedding.weight", "params/quantize/embedding", (0, 1)),
        ("position_emb", "params/position_emb", (0, 1)),
        ("feat_emb.weight", "params/feat_emb/kernel", (1, 0)),
        (
            "ft_layers.1.self_attn.in_proj_weight",
            "params/ft_layers_1/self_attn/in_proj/kernel",
            (1, 0),
        ),
        (
            "ft_layers.0.self_attn.in_proj_bias",
            "params/ft_layers_0/self_attn/in_proj/bias",
            (0,),
        ),
        (
            "ft_layers.0.self_attn.out_proj.weight",
            "params/ft_layers_0/self_attn/out_proj/kernel",
            (1, 0),
        ),
        ("idx_pred_layer.0.weight", "params/idx_pred_layer_0/scale", (0,)),
        ("idx_pred_layer.1.weight", "params/idx_pred_layer_1/kernel", (1, 0)),
        (
            "fuse_convs_dict.32.scale.2.weight",
            "params/fuse_convs_dict_32/scale_2/kernel",
            (2, 3, 1, 0),
        ),
    ],
)
def test_where_tensors_go(name, path, axes):
    _, variables = tiny_codeformer()
    value = flatten(variables)[tuple(path.split("/"))]
    table = to_torch("codeformer", variables)
    np.testing.assert_array_equal(np.transpose(table[name], axes), value)


def test_where_statistics_go(table_of):
    table = table_of("discriminator_0")
    _, variables = from_torch("discriminator", table)
    stats = variables["batch_stats"]["main_6"]
    np.testing.assert_array_equal(stats["mean"], table["main.6.running_mean"])
    np.testing.assert_array_equal(stats["var"], table["main.6.running_var"])
    # Files from before PyTorch 0.4.1 lack the counter; a strict load needs it.
    table = {k: v for k, v in table.items() if not k.endswith("num_batches_tracked")}
    _, again = from_torch("discriminator", table)
    assert_same_variables(again, variables)
    count = to_torch("discriminator", variables)["main.6.num_batches_tracked"]
    assert (count.shape, count.dtype, int(count)) == ((), np.int64, 0)


def test_an_averaged_codebook_converts(table_of):
    table = table_of("vqgan_small_0")
    _, variables = from_torch("vqgan", table, image_size=64, ema_decay=0.99)
    quantize = variables["codebook"]["quantize"]
    np.testing.assert_array_equal(quantize["embedding"], table["quantize.embedding.weight"])
    np.testing.assert_array_equal(quantize["sums"], quantize["embedding"])
    np.testing.assert_array_equal(quantize["counts"], 1)
    assert "quantize" not in variables["params"]
    assert_same_tables(to_torch("vqgan", variables), table)


def lpips_table(seeded):
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    layers = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    shapes = {}
    for layer, i, o in zip(layers, widths[:-1], widths[1:], strict=True):
        shapes |= {f"features.{layer}.weight": (o, i, 3, 3), f"features.{layer}.bias": (o,)}
    for i, width in enumerate([64, 128, 256, 512, 512]):
        shapes[f"lin{i}.model.1.weight"] = (1, width, 1, 1)
    return seeded.seeded_state_dict(shapes, 0)


def test_lpips_in_either_naming(seeded):
    table = lpips_table(seeded)
    assert detect_network(table) == "lpips"
    _, variables = from_torch("lpips", {**table, "classifier.0.weight": np.zeros((2, 2), "f4")})
    np.testing.assert_array_equal(
        variables["params"]["vgg"]["conv3_2"]["kernel"],
        table["features.12.weight"].transpose(2, 3, 1, 0),
    )
    np.testing.assert_array_equal(
        variables["params"]["lins_4"]["layer"]["kernel"][0, 0, :, 0],
        table["lin4.model.1.weight"][0, :, 0, 0],
    )
    assert_same_tables(to_torch("lpips", variables), table)
    slices = {0: 1, 5: 2, 10: 3, 17: 4, 24: 5}
    package = {"scaling_layer.shift": np.zeros((1, 3, 1, 1), "f4")}
    for name, array in table.items():
        head, number, rest = (*name.split(".", 2), "")[:3]
        if head == "features":
            slice_ = slices[max(s for s in slices if s <= int(number))]
            package[f"net.slice{slice_}.{number}.{rest}"] = array
        else:
            package |= {name: array, f"lins.{name[3:]}": array}
    assert detect_network(package) == "lpips"
    assert_same_variables(from_torch("lpips", package)[1], variables)


def test_other_precisions_and_wrappers_are_taken(table_of):
    table = table_of("discriminator_0")
    _, variables = from_torch("discriminator", table)
    wide = {f"module.{k}": v.astype(np.float64) for k, v in table.items()}
    assert detect_network(wide) == "discriminator"
    assert_same_variables(from_torch("discriminator", wide)[1], variables)
    for dtype in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2):
        narrow = {k: v.astype(dtype) for k, v in table.items()}
        _, found = from_torch("discriminator", narrow)
        expected = narrow["main.5.weight"].astype(np.float32).transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(found["params"]["main_5"]["kernel"], expected)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: f"module.module.{name}",
        lambda name: name.replace("main.", "main._orig_mod."),
    ],
)
def test_names_behind_wrappers_are_recognised(wrap, table_of):
    table = table_of("discriminator_0")
    _, variables = from_torch("discriminator", table)
    wrapped = {wrap(name): array for name, array in table.items()}
    averaged = {"n_averaged": np.array(3), **{f"module.{n}": a for n, a in wrapped.items()}}
    parallel = {f"module.{name}": array for name, array in averaged.items()}
    for found in (wrapped, averaged, parallel):
        assert detect_network(found) == "discriminator"
        assert_same_variables(from_torch("discriminator", found)[1], variables)
    with pytest.raises(ConversionError, match=r"two tensors have the same name once '_orig_mod\.'"):
        detect_network({**table, "_orig_mod.main.0.bias": table["main.0.bias"]})


@pytest.mark.slow  # torch.compile
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_names_that_pytorch_itself_wraps():
    torch = pytest.importorskip("torch")
    layers = [torch.nn.Conv2d(3, 4, 4), torch.nn.LeakyReLU(), torch.nn.Conv2d(4, 8, 4, bias=False)]
    layers += [torch.nn.BatchNorm2d(8), torch.nn.LeakyReLU()]
    layers += [torch.nn.Conv2d(8, 16, 4, bias=False), torch.nn.BatchNorm2d(16)]
    layers += [torch.nn.LeakyReLU(), torch.nn.Conv2d(16, 1, 4)]
    plain = torch.nn.ModuleDict({"main": torch.nn.Sequential(*layers)})
    swa = torch.optim.swa_utils.AveragedModel(torch.compile(plain))
    table = {name: tensor.numpy() for name, tensor in swa.state_dict().items()}
    assert {"n_averaged", "module._orig_mod.main.0.weight"} <= set(table)
    assert detect_network(table) == "discriminator"
    module, _ = from_torch("discriminator", table)
    assert (module.ndf, module.n_layers) == (4, 2)


def alexnet_table(seeded):
    widths, layers = [3, 64, 192, 384, 256, 256], {0: 11, 3: 5, 6: 3, 8: 3, 10: 3}
    shapes = {}
    for (layer, side), i, o in zip(layers.items(), widths[:-1], widths[1:], strict=True):
        shapes |= {f"features.{layer}.weight": (o, i, side, side), f"features.{layer}.bias": (o,)}
    for i, width in enumerate(widths[1:]):
        shapes[f"lin{i}.model.1.weight"] = (1, width, 1, 1)
    return seeded.seeded_state_dict(shapes, 0)


def test_lpips_of_alexnet_in_either_naming(seeded):
    table = alexnet_table(seeded)
    assert detect_network(table) == "lpips"
    module, variables = from_torch("lpips", {**table, "classifier.1.bias": np.zeros(2, "f4")})
    assert module == LPIPS(net="alex")
    assert_same_tables(to_torch("lpips", variables), table)
    slices = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}
    package = {
        re.sub(r"^features\.(\d+)", lambda m: f"net.slice{slices[int(m[1])]}.{m[1]}", name): array
        for name, array in table.items()
    }
    package |= {f"lins.{n[3:]}": a for n, a in table.items() if n.startswith("lin")}
    assert detect_network(package) == "lpips"
    assert_same_variables(from_torch("lpips", package)[1], variables)
    with pytest.raises(ConversionError, match="net is 'squeeze'; expected one of vgg, alex"):
        from_torch("lpips", table, net="squeeze")


def test_every_difference_is_listed(table_of):
    table = table_of("vqgan_small_0")
    del table["encoder.blocks.3.conv.weight"], table["generator.blocks.15.bias"]
    table["extra.weight"] = np.zeros((2, 3), np.float32)
    table["generator.blocks.0.weight"] = table["generator.blocks.0.weight"][:, :, :1]
    table["encoder.blocks.0.bias"] = table["encoder.blocks.0.bias"].astype(np.int64)
    with pytest.raises(ConversionError) as caught:
        from_torch("vqgan", table, image_size=64)
    message = str(caught.value)
    assert "do not fit the network 'vqgan'" in message
    assert "missing (2):\n" in message
    assert "    encoder.blocks.3.conv.weight [32, 32, 3, 3]\n" in message
    assert "    generator.blocks.15.bias [3]\n" in message
    assert "unexpected (1):\n    extra.weight [2, 3]\n" in message
    assert "    generator.blocks.0.weight [64, 64, 1, 3], expected [64, 64, 3, 3]" in message
    assert "encoder.blocks.0.bias is int64, expected floating point" in message


def test_another_network_lists_what_it_lacks(table_of):
    with pytest.raises(
        ConversionError, match=r"missing \(114\):\n(.|\n)*    position_emb \[\d+, 512\]"
    ):
        from_torch("codeformer", table_of("vqgan_small_0"))
    with pytest.raises(ConversionError, match="only 0 encoder blocks"):
        from_torch("vqgan", table_of("discriminator_0"))
    with pytest.raises(ConversionError, match=r"missing \(24\)"):
        from_torch("discriminator", {})


def without(table, prefix):
    return {k: v for k, v in table.items() if not k.startswith(prefix)}


@pytest.mark.parametrize(
    ("change", "given", "message"),
    [
        (lambda t: without(t, "encoder.blocks.5."), {}, r"missing: encoder\.blocks\.5$"),
        (lambda t: t, {"image_size": 62}, "image_size=62 is not divisible by 4"),
        (lambda t: t, {"image_size": "64"}, "image_size is '64'; expected a positive integer"),
        (lambda t: t, {"image_size": 64, "nf": 48}, "width 48 does not divide into norm_groups=32"),
        (lambda t: t, {"image_size": 64, "nf": 64}, r"wrong shape \(\d+\)"),
        (lambda t: t, {"dtype": "float7"}, "dtype is 'float7'"),
        (lambda t: t, {"width": 3}, "has no hyperparameter width; it has image_size, nf,"),
        (
            lambda t: {**t, "encoder.blocks.0.weight": np.zeros((48, 3, 3, 3), "f4")},
            {},
            "multiples of its first convolution's width 48",
        ),
    ],
)
def test_impossible_hyperparameters(change, given, message, table_of):
    with pytest.raises(ConversionError, match=message):
        from_torch("vqgan", change(table_of("vqgan_small_0")), **given)


def test_unknown_networks_and_variables():
    with pytest.raises(ConversionError, match="unknown network 'gan'; expected one of codeformer"):
        from_torch("gan", {})
    with pytest.raises(ConversionError, match=r"from 1 names \(a, \.\.\.\); say which of"):
        detect_network({"a": np.zeros(1)})
    with pytest.raises(ConversionError, match="collections \\['batch_stats'\\]; expected 'params'"):
        to_torch("vqgan", {"batch_stats": {}})
    with pytest.raises(ConversionError, match="need the collection 'batch_stats'"):
        to_torch("discriminator", {"params": {}})
    with pytest.raises(ConversionError, match=r"no PyTorch name is known .* 'cache/a/b'"):
        to_torch("vqgan", {"params": {}, "cache": {"a": {"b": np.zeros(1)}}})
