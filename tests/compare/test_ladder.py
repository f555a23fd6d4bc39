"""What a precision costs, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax import convert
from codeformer_jax.cli import main
from codeformer_jax.compare import TraceError, trace
from codeformer_jax.compare import ladder as module_of_ladder
from codeformer_jax.compare.ladder import RUNGS, ladder
from codeformer_jax.nn import GPT, VQGAN
from codeformer_jax.nn.precision import products_in

SIZES = {"image_size": 16, "nf": 8, "ch_mult": (1, 2), "norm_groups": 4, "codebook_size": 16}
IMAGES = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    module = VQGAN(**SIZES, emb_dim=8, attn_resolutions=(8,))
    return module, jax.jit(module.init)(jax.random.key(0), IMAGES)


def only(monkeypatch, name):
    """Leaves one rung, for tests in which the figures are not the point."""
    monkeypatch.setattr(module_of_ladder, "RUNGS", {name: RUNGS[name]})


@pytest.fixture(scope="module")
def found(network):
    return ladder(*network, IMAGES)


def test_every_rung_is_measured_against_float64(found):
    assert [rung.name for rung in found.rungs] == list(RUNGS)
    worst = {rung.name: rung.comparison.worst.relative_l2 for rung in found.rungs}
    assert 0 < worst["float32 highest"] < 1e-5
    assert 1e-5 < worst["float16 weights"] < worst["bfloat16 compute"]
    psnr = {rung.name: rung.psnr for rung in found.rungs}
    assert psnr["float32 highest"] > 100 > psnr["float16 weights"] > psnr["bfloat16 compute"]
    assert found.rungs[0].flipped == 0
    made_by = found.rungs[3].comparison.made_by
    assert [side["dtype"] for side in made_by] == ["bfloat16", "float64"]


def test_float64_is_not_rounded_to_float32_on_the_way(network):
    module, variables = network
    with jax.enable_x64(True), products_in("highest"):
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
        entries = trace(module.clone(dtype=jnp.float64), wide, IMAGES.astype(np.float64)).entries
    values = [entry for entry in entries if entry.kind == "activation" and entry.array.size > 1]
    assert len(values) > 20
    for entry in values:
        assert entry.dtype == "float64", entry.name
        assert np.any(entry.array != entry.array.astype(np.float32)), entry.name


def test_a_network_without_a_precision_is_refused(network):
    with pytest.raises(TraceError, match=r"object has no field 'dtype'"):
        ladder(object(), {}, IMAGES)


def test_a_network_over_codes_has_no_image(monkeypatch):
    only(monkeypatch, "float32 highest")
    module = GPT(vocab_size=8, block_size=8, n_layer=1, n_head=2, n_embd=8, map_size=(2, 2))
    tokens = np.arange(4, dtype=np.int32)[None]
    found = ladder(module, module.init(jax.random.key(0), tokens), tokens)
    assert np.isnan(found.rungs[0].psnr)
    assert np.isnan(found.rungs[0].flipped)
    assert "| float32 highest |" in str(found)


def test_the_command_prints_the_tables(network, tmp_path, monkeypatch, capsys):
    only(monkeypatch, "float16 weights")
    convert.save_model(tmp_path / "vqgan.safetensors", "vqgan", *network)
    np.save(tmp_path / "x.npy", IMAGES)
    arguments = [str(tmp_path / name) for name in ("vqgan.safetensors", "x.npy")]
    assert main(["compare", "--ladder", *arguments]) == 0
    out = capsys.readouterr().out
    assert "| encoder.blocks.1 | " in out
    assert "| float16 weights | " in out
    assert main(["compare", "--ladder", arguments[0], str(tmp_path / "none.png")]) == 2
    assert "none.png: no such file" in capsys.readouterr().err
