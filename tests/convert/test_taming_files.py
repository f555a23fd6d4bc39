"""Checkpoints of "Taming Transformers" and of `diffusers`: which names are taken, dropped, made."""

import re

import jax
import numpy as np
import pytest

from codeformer_jax.convert import (
    ConversionError,
    UnsafePickleError,
    code_fingerprint,
    convert_file,
    detect_network,
    from_torch,
    load_model,
    parameter_fingerprint,
    read_pth,
    to_torch,
    write_pth,
)
from codeformer_jax.convert.networks import build_module, expected_variables
from codeformer_jax.convert.taming import read_vqgan
from codeformer_jax.nn import GPT, TamingVQGAN

TINY = {
    "image_size": 32,
    "nf": 4,
    "ch_mult": (1, 1, 2),
    "res_blocks": 1,
    "attn_resolutions": (16,),
    "codebook_size": 8,
    "emb_dim": 6,
    "z_channels": 5,
    "norm_groups": 2,
}
TINY_GPT = {"vocab_size": 7, "block_size": 9, "n_layer": 2, "n_head": 2, "n_embd": 4}


def random_variables(network, module, seed=0):
    rng = np.random.RandomState(seed)
    expected = expected_variables(network, module)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(x.dtype), expected)


def tiny_vqgan(**fields):
    module = TamingVQGAN(**{**TINY, **fields})
    return module, random_variables("taming_vqgan", module)


def tiny_gpt(**fields):
    module = GPT(**{**TINY_GPT, "map_size": (3, 3), **fields})
    return module, random_variables("taming_gpt", module, seed=1)


def assert_same_tables(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def assert_same_variables(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_the_fixtures_table_round_trips(table_of):
    table = table_of("taming_vqgan_small_0")
    assert detect_network(table) == "taming_vqgan"
    module, variables = from_torch("taming_vqgan", table, image_size=64)
    assert (module.z_channels, module.emb_dim, module.quantizer) == (64, 64, "nearest")
    assert_same_tables(to_torch("taming_vqgan", variables), table)


def test_published_sizes_are_read_off_shapes(shapes_of):
    shapes = shapes_of("taming_vqgan_f16_1024_0")
    assert build_module("taming_vqgan", read_vqgan(shapes, {})) == TamingVQGAN()


@pytest.mark.parametrize("quantizer", ["nearest", "gumbel"])
def test_hyperparameters_are_read_and_the_image_size_is_given(quantizer):
    module, variables = tiny_vqgan(quantizer=quantizer)
    table = to_torch("taming_vqgan", variables)
    names = {
        "nearest": {"embedding.weight"},
        "gumbel": {"embed.weight", "proj.weight", "proj.bias"},
    }
    found = {n.removeprefix("quantize.") for n in table if n.startswith("quantize.")}
    assert found == names[quantizer]
    assert table["encoder.down.2.block.0.nin_shortcut.weight"].shape == (8, 4, 1, 1)
    assert table["decoder.mid.attn_1.q.weight"].shape == (8, 8, 1, 1)
    again, values = from_torch("taming_vqgan", table, image_size=32, norm_groups=2)
    assert again == module
    assert_same_variables(values, variables)
    default, _ = from_torch("taming_vqgan", table, norm_groups=2)
    assert (default.image_size, default.attn_resolutions) == (256, (128,))


def lightning(table):
    """A checkpoint's contents: the network among losses, a discriminator and averages."""
    extra = {
        "loss.perceptual_loss.net.slice1.0.weight": np.zeros((2, 3, 3, 3), "f4"),
        "loss.discriminator.main.3.num_batches_tracked": np.zeros((), "i8"),
        "loss.discriminator.main.3.weight": np.ones(4, "f4"),
        "colorize": np.zeros((3, 2, 1, 1), "f4"),
    }
    return {"epoch": 3, "global_step": 7, "state_dict": {**extra, **table}}


def test_a_lightning_checkpoint_becomes_a_model_file(tmp_path):
    module, variables = tiny_vqgan(quantizer="gumbel")
    table = to_torch("taming_vqgan", variables)
    source = tmp_path / "last.ckpt"
    write_pth(source, lightning(table))
    settings = {"image_size": 32, "norm_groups": 2}
    summary = convert_file(source, tmp_path / "vqgan.safetensors", overrides=settings)
    network, again, values = load_model(summary.target)
    assert (network, again) == ("taming_vqgan", module)
    assert_same_variables(values, variables)
    back = convert_file(summary.target, tmp_path / "back.pth", to_torch=True)
    assert_same_tables(read_pth(back.target)["state_dict"], table)


def test_callbacks_keyed_by_their_class(make_pth):
    def pickled(by):
        # A dict {class: {}} beside a number; protocol 0, so that it can be read here.
        return b"(dp0\nVcallbacks\np1\n(dp2\ncpytorch_lightning.callbacks\nModelCheckpoint\n" + by

    tree = read_pth(make_pth(pickled(b"(dp3\nssVepoch\nI3\ns.")))
    assert tree == {"callbacks": {"pytorch_lightning.callbacks.ModelCheckpoint": {}}, "epoch": 3}
    # As a key it is a name; to make one is refused, and so it is as a value.
    with pytest.raises(UnsafePickleError, match=r"makes a 'pytorch_lightning\.callbacks\.Mod"):
        read_pth(make_pth(pickled(b"(tR(dp3\nss.")))
    with pytest.raises(UnsafePickleError, match=r"holds a lightning\.pytorch\.Trainer, which"):
        read_pth(make_pth(b"(dp0\nVa\np1\nclightning.pytorch\nTrainer\ns."))


def transformer_checkpoint():
    gpt, gpt_variables = tiny_gpt()
    first, second = tiny_vqgan(), tiny_vqgan(codebook_size=4)
    parts = {
        "transformer.": to_torch("taming_gpt", gpt_variables),
        "first_stage_model.": lightning(to_torch("taming_vqgan", first[1]))["state_dict"],
        "cond_stage_model.": to_torch("taming_vqgan", second[1]),
    }
    table = {prefix + name: a for prefix, part in parts.items() for name, a in part.items()}
    return table, (gpt, gpt_variables), first, second


def test_a_transformers_checkpoint_holds_three_networks(tmp_path):
    table, (gpt, gpt_variables), first, second = transformer_checkpoint()
    source = tmp_path / "prior.ckpt"
    write_pth(source, {"state_dict": table})
    sizes = {"image_size": 32, "norm_groups": 2}
    runs = {
        "gpt": (
            {"overrides": {"n_head": 2, "condition": "start"}},
            "taming_gpt",
            gpt,
            gpt_variables,
        ),
        "first": ({"network": "taming_vqgan", "overrides": sizes}, "taming_vqgan", *first),
        "second": ({"key": "cond_stage_model", "overrides": sizes}, "taming_vqgan", *second),
    }
    for name, (options, network, module, variables) in runs.items():
        convert_file(source, tmp_path / f"{name}.safetensors", **options)
        found, again, values = load_model(tmp_path / f"{name}.safetensors")
        assert (found, again) == (network, module), name
        assert_same_variables(values, variables)


def test_heads_and_conditions_of_a_transformer_do_not_show(tmp_path):
    _, variables = tiny_gpt()
    source = tmp_path / "gpt.ckpt"
    write_pth(source, {"state_dict": to_torch("taming_gpt", variables)})
    given = {"n_head": 2, "condition": "class", "classes": 7, "map_size": (2, 4)}
    summary = convert_file(source, tmp_path / "gpt.safetensors", overrides=given)
    assert load_model(summary.target)[1] == GPT(
        **TINY_GPT, **{k: given[k] for k in list(given)[1:]}
    )
    assert summary.note == ""
    with pytest.raises(ConversionError, match="n_head, condition: not shown by the file"):
        convert_file(source, tmp_path / "other.safetensors")


@pytest.mark.parametrize(("n_unmasked", "read"), [(0, 0), (1, 0), (4, 4), (9, 9)])
def test_masks_of_attention_say_how_many_tokens_see_each_other(n_unmasked, read):
    module, variables = tiny_gpt(n_unmasked=n_unmasked)
    table = to_torch("taming_gpt", variables, module)
    expected = np.tri(9, dtype="f4")
    expected[:n_unmasked, :n_unmasked] = 1
    for block in range(2):
        np.testing.assert_array_equal(table[f"blocks.{block}.attn.mask"][0, 0], expected)
    again, values = from_torch("taming_gpt", table, n_head=2)
    assert again.n_unmasked == read
    assert_same_variables(values, variables)
    causal = to_torch("taming_gpt", variables)
    np.testing.assert_array_equal(causal["blocks.1.attn.mask"][0, 0], np.tri(9))
    # Without masks, as some files are, it is causal.
    bare = {name: array for name, array in table.items() if not name.endswith("mask")}
    assert from_torch("taming_gpt", bare, n_head=2)[0].n_unmasked == 0


def test_masks_of_another_form_are_refused():
    table = to_torch("taming_gpt", tiny_gpt()[1])
    odd = table["blocks.1.attn.mask"].copy()
    odd[..., 2, 5] = 1
    with pytest.raises(ConversionError, match=r"blocks\.1\.attn\.mask is not a mask of causal"):
        from_torch("taming_gpt", {**table, "blocks.1.attn.mask": odd}, n_head=2)
    free = np.ones_like(odd)
    with pytest.raises(ConversionError, match=r"mask and blocks\.1\.attn\.mask are different"):
        from_torch("taming_gpt", {**table, "blocks.1.attn.mask": free}, n_head=2)


def test_older_diffusers_names(table_of):
    """Attention was called otherwise, and had 1x1 convolutions or linear layers."""
    table = table_of("diffusers_vqmodel_0")
    _, variables = from_torch("taming_vqgan", table, image_size=32, norm_groups=16)
    older = {}
    for name, array in table.items():
        for new, old in (
            (".to_q.", ".query."),
            (".to_k.", ".key."),
            (".to_v.", ".value."),
            (".to_out.0.", ".proj_attn."),
        ):
            name = name.replace(new, old)  # noqa: PLW2901
        older[name] = array[:, :, None, None] if re.search(r"(query|attn)\.weight", name) else array
    assert older.keys() != table.keys()
    assert_same_variables(
        from_torch("taming_vqgan", older, image_size=32, norm_groups=16)[1], variables
    )


def test_diffusers_safetensors_are_a_source(table_of, tmp_path):
    from safetensors.numpy import save_file  # noqa: PLC0415

    source = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(table_of("diffusers_vqmodel_0"), source)
    settings = {"image_size": 32, "norm_groups": 16}
    summary = convert_file(source, tmp_path / "vqgan.safetensors", overrides=settings)
    assert summary.network == "taming_vqgan"
    (tmp_path / "half.safetensors").write_bytes(source.read_bytes()[:5000])
    with pytest.raises(ConversionError, match=r"half\.safetensors: not a safetensors file, or dam"):
        convert_file(tmp_path / "half.safetensors", tmp_path / "other.safetensors")
    assert not (tmp_path / "other.safetensors").exists()


@pytest.mark.parametrize("quantizer", ["nearest", "gumbel"])
def test_a_codebook_that_is_a_moving_average_or_remapped(quantizer):
    """`EMAVectorQuantizer` keeps counts and sums; `remap` the codes in use, by `quantize.used`."""
    module, variables = tiny_vqgan(quantizer=quantizer)
    table = to_torch("taming_vqgan", variables)
    codes = variables["params"]["quantize"]["embedding" if quantizer == "nearest" else "embed"]
    extra = {
        "quantize.embedding.cluster_size": np.ones(8, "f4"),
        "quantize.embedding.embed_avg": np.ones((8, 6), "f4"),
        "quantize.used": np.array([6, 1, 3]),
    }
    assert detect_network({**table, **extra}) == "taming_vqgan"
    sizes = {"image_size": 32, "norm_groups": 2}
    again, values = from_torch("taming_vqgan", {**table, **extra}, **sizes)
    assert again == module
    assert_same_variables(values, variables)
    # By the number of codes in use the codebook is that of a prior over remapped codes.
    part, values = from_torch("taming_vqgan", {**table, **extra}, codebook_size=3, **sizes)
    assert part == module.clone(codebook_size=3)
    name = "embedding" if quantizer == "nearest" else "embed"
    np.testing.assert_array_equal(values["params"]["quantize"][name], codes[[6, 1, 3]])


def test_differences_are_listed():
    table = to_torch("taming_vqgan", tiny_vqgan()[1])
    del table["decoder.up.1.upsample.conv.weight"]
    table["extra.weight"] = np.zeros(2, "f4")
    with pytest.raises(ConversionError) as caught:
        from_torch("taming_vqgan", table, image_size=32, norm_groups=2)
    assert "missing (1):\n    decoder.up.1.upsample.conv.weight [4, 4, 3, 3]" in str(caught.value)
    assert "unexpected (1):\n    extra.weight [2]" in str(caught.value)
    broken = {n: a for n, a in table.items() if not n.startswith("encoder.down.1.")}
    with pytest.raises(ConversionError, match=r"encoder is not complete.*found levels \[0, 2\]"):
        from_torch("taming_vqgan", broken)
    wide = {**table, "encoder.conv_in.weight": np.zeros((3, 3, 3, 3), "f4")}
    with pytest.raises(ConversionError, match=r"widths \[4, 4, 8\].*first convolution's width 3"):
        from_torch("taming_vqgan", wide)
    gpt = to_torch("taming_gpt", tiny_gpt()[1])
    del gpt["blocks.1.mlp.2.bias"]
    with pytest.raises(ConversionError, match=r"missing \(1\):\n    blocks\.1\.mlp\.2\.bias \[4\]"):
        from_torch("taming_gpt", gpt, n_head=2)


@pytest.mark.parametrize("part", ["encoder", "quant_conv", "quantize"])
def test_codes_belong_to_all_that_makes_them(part):
    module, variables = tiny_vqgan()
    before = code_fingerprint(module, variables)
    params = variables["params"]
    same = {**params, "decoder": jax.tree.map(np.zeros_like, params["decoder"])}
    assert code_fingerprint(module, {"params": same}) == before
    other = {**params, part: jax.tree.map(lambda x: x + 1, params[part])}
    assert code_fingerprint(module, {"params": other}) != before


def test_parameters_are_told_apart_by_name_shape_dtype_and_value():
    one = {"a": {"kernel": np.arange(6, dtype=np.float32)}}
    others = [
        {"b": one["a"]},
        {"a": {"kernel": one["a"]["kernel"].reshape(2, 3)}},
        {"a": {"kernel": one["a"]["kernel"].view(np.int32)}},
        {"a": {"kernel": one["a"]["kernel"][::-1]}},
    ]
    found = [parameter_fingerprint(params) for params in (one, *others)]
    assert len(set(found)) == 5
    assert parameter_fingerprint({"a": {"kernel": jax.numpy.arange(6.0)}}) == found[0]
