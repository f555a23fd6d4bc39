"""Hidden hyperparameters of `.pth` files: stored in ours, asked for in those of others."""

import jax
import numpy as np
import pytest

from codeformer_jax.convert import (
    ConversionError,
    convert_file,
    load_model,
    read_pth,
    save_model,
    write_pth,
)
from codeformer_jax.convert.networks import expected_variables
from codeformer_jax.convert.settings import SETTINGS_KEY, check_hidden
from codeformer_jax.nn import GPT, VQGAN, VQVAE, CodeFormer, TamingVQGAN

BACKBONE = {
    "image_size": 32,
    "nf": 8,
    "ch_mult": (1, 2),
    "res_blocks": 1,
    "attn_resolutions": (16,),
    "codebook_size": 8,
    "emb_dim": 8,
    "norm_groups": 4,
}
MODULES = {
    "codeformer": CodeFormer(
        **BACKBONE, dim_embd=16, n_head=2, n_layers=1, connect_list=(16,), beta=1.0
    ),
    "vqgan": VQGAN(**BACKBONE, ema_decay=0.99, beta_on="codebook"),
    "vqvae": VQVAE(image_size=16, hidden=8, res_blocks=1, codebook_size=8, emb_dim=4),
    "taming_vqgan": TamingVQGAN(**BACKBONE, z_channels=6, quantizer="gumbel"),
    "taming_gpt": GPT(
        vocab_size=7,
        block_size=12,
        n_layer=1,
        n_head=2,
        n_embd=4,
        n_unmasked=3,
        condition="codes",
        condition_length=3,
        map_size=(2, 5),
        dropout=0.1,
    ),
}


def written(network, folder):
    """A model file of a random network, and the `.pth` file made of it."""
    module = MODULES[network]
    rng = np.random.RandomState(0)
    expected = expected_variables(network, module)
    variables = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(x.dtype), expected)
    save_model(folder / "model.safetensors", network, module, variables)
    back = convert_file(folder / "model.safetensors", folder / "m.pth", to_torch=True)
    assert back.note == ""
    return variables, back.target


@pytest.fixture
def foreign(tmp_path):
    """Writes the tables of a network's `.pth` without its settings; returns the path."""

    def write(network):
        _, path = written(network, tmp_path)
        tree = read_pth(path)
        del tree[SETTINGS_KEY]
        write_pth(tmp_path / "foreign.pth", tree)
        return tmp_path / "foreign.pth"

    return write


@pytest.mark.parametrize("network", MODULES)
def test_our_own_files_convert_back_without_options(network, tmp_path):
    variables, path = written(network, tmp_path)
    summary = convert_file(path, tmp_path / "again.safetensors")
    found, module, again = load_model(summary.target)
    assert (found, module, summary.note) == (network, MODULES[network], "")
    jax.tree.map(np.testing.assert_array_equal, again["params"], variables["params"])
    # What is given goes before what is stored; another network is refused.
    given = convert_file(path, tmp_path / "given.safetensors", overrides={"dtype": "bfloat16"})
    assert load_model(given.target)[1].dtype.dtype.name == "bfloat16"
    with pytest.raises(ConversionError, match=rf"m\.pth: holds the network '{network}', not 'lp"):
        convert_file(path, tmp_path / "other", network="lpips")


def test_pytorch_reads_the_settings_without_trusting_the_file(tmp_path):
    torch = pytest.importorskip("torch")
    _, path = written("codeformer", tmp_path)
    tree = torch.load(path, weights_only=True)
    assert list(tree) == ["params_ema", SETTINGS_KEY]
    fields = tree[SETTINGS_KEY]["hyperparameters"]
    assert (fields["n_head"], fields["norm_groups"], fields["connect_list"]) == (2, 4, [16])
    # A file that PyTorch has saved again keeps them, under the same key or another one.
    torch.save(tree, path)
    for key in (None, "params_ema"):
        summary = convert_file(path, tmp_path / "again.safetensors", key=key, force=True)
        assert load_model(summary.target)[1] == MODULES["codeformer"]


@pytest.mark.parametrize(
    ("network", "given", "hidden", "value"),
    [
        ("codeformer", {}, ["norm_groups", "n_head"], "n_head=8"),
        ("codeformer", {"norm_groups": 4}, ["n_head"], "n_head=8"),
        ("vqgan", {}, ["image_size", "norm_groups"], "image_size=512, norm_groups=32"),
        ("taming_vqgan", {"image_size": 32}, ["norm_groups"], "norm_groups=32"),
        (
            "taming_gpt",
            {"condition_length": 3},
            ["n_head", "condition", "map_size"],
            "n_head=16, cond",
        ),
        (
            "taming_gpt",
            {"n_head": 2, "condition": "codes"},
            ["condition_length", "map_size"],
            "condition_length=1",
        ),
    ],
)
def test_hidden_fields_of_a_foreign_file_must_be_given(
    network, given, hidden, value, foreign, tmp_path
):
    path = foreign(network)
    with pytest.raises(ConversionError) as caught:
        convert_file(path, tmp_path / "out", overrides=given)
    message = str(caught.value)
    assert message.startswith(f"{path}: {', '.join(hidden)}: not shown by the file")
    assert " ".join(f"--set {name}=..." for name in hidden) + " (the published" in message
    assert value in message
    assert not (tmp_path / "out.safetensors").exists()
    all_of_them = {name: getattr(MODULES[network], name) for name in hidden}
    summary = convert_file(path, tmp_path / "out", overrides={**given, **all_of_them})
    for name in hidden:
        assert getattr(load_model(summary.target)[1], name) == all_of_them[name]


@pytest.mark.parametrize("fixture", ["codeformer_0", "vqgan_full_0", "taming_vqgan_f16_1024_0"])
def test_published_sizes_keep_the_published_settings(fixture, shapes_of):
    network = fixture.rsplit("_", 1)[0].removesuffix("_full").removesuffix("_f16_1024")
    table = {name: np.broadcast_to(np.float32(0), s) for name, s in shapes_of(fixture).items()}
    note = check_hidden(network, table, {})
    assert note.startswith("not shown by the file and taken as published: ")
    assert "norm_groups=32" in note
    # The released networks for inpainting and colorization differ in these.
    other = {n: a for n, a in table.items() if not n.startswith("fuse_convs_dict.256")}
    other["quantize.embedding.weight"] = other["quantize.embedding.weight"][:512]
    assert check_hidden(network, other, {}) == note
    assert "norm_groups" not in check_hidden(network, table, {"norm_groups": 16})


def test_a_map_that_fills_its_positions_need_not_be_given():
    module = GPT(vocab_size=7, block_size=9, n_layer=1, n_head=2, n_embd=4, map_size=(3, 3))
    shapes = expected_variables("taming_gpt", module)
    table = {"tok_emb.weight": shapes["params"]["tok_emb"], "pos_emb": shapes["params"]["pos_emb"]}
    table = {name: np.zeros(x.shape, x.dtype) for name, x in table.items()}
    with pytest.raises(ConversionError, match=r"^n_head: not shown"):
        check_hidden("taming_gpt", table, {"condition": "start"})


@pytest.mark.parametrize(
    "entry",
    [
        1,
        {"version": 2, "network": "vqgan", "hyperparameters": {}},
        {"version": 1, "network": "gan", "hyperparameters": {}},
        {"version": 1, "network": "vqgan"},
        {"version": 1, "network": "vqgan", "hyperparameters": {1: 2}},
    ],
)
def test_damaged_settings_are_refused(entry, foreign, tmp_path):
    path = foreign("vqgan")
    write_pth(path, {**read_pth(path), SETTINGS_KEY: entry})
    with pytest.raises(ConversionError, match=r"foreign\.pth: its entry 'codeformer_jax' does not"):
        convert_file(path, tmp_path / "out")
    entry = {"version": 1, "network": "vqgan", "hyperparameters": {"later": 1}}
    write_pth(path, {**read_pth(path), SETTINGS_KEY: entry})
    with pytest.raises(ConversionError, match=r"foreign\.pth: .*has no hyperparameter later"):
        convert_file(path, tmp_path / "out")
