import errno
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from codeformer_jax.convert import (
    ConversionError,
    ModelFileError,
    load_model,
    read_about,
    save_model,
    write_pth,
)
from codeformer_jax.convert.files import FORMAT
from codeformer_jax.convert.networks import expected_variables
from codeformer_jax.nn import VQGAN, PatchDiscriminator
from codeformer_jax.system.atomic import atomic_directory, atomic_path


def random_variables(network, module):
    rng = np.random.RandomState(0)
    expected = expected_variables(network, module)
    return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), expected)


def small_discriminator():
    module = PatchDiscriminator(ndf=4, n_layers=2)
    return module, random_variables("discriminator", module)


def small_vqgan():
    module = VQGAN(
        image_size=16,
        nf=4,
        ch_mult=[1, 2],
        res_blocks=1,
        attn_resolutions=[8],
        codebook_size=8,
        emb_dim=4,
        norm_groups=2,
        ema_decay=0.9,
        dtype=jnp.bfloat16,
    )
    return module, random_variables("vqgan", module)


def rounded(variables):
    return jax.tree.map(lambda x: x.astype(jnp.float16).astype(x.dtype), variables)


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize(
    ("network", "make"), [("discriminator", small_discriminator), ("vqgan", small_vqgan)]
)
def test_round_trip(network, make, tmp_path):
    module, variables = make()
    path = tmp_path / "new" / "model.safetensors"
    save_model(path, network, module, variables)
    found_network, found_module, found = load_model(path)
    assert (found_network, found_module, hash(found_module)) == (network, module, hash(module))
    assert_same(found, variables)
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_transposed_arrays_are_written_as_they_read(tmp_path):
    module, variables = small_discriminator()
    flipped = jax.tree.map(lambda x: np.asfortranarray(np.asarray(x)), variables)
    save_model(tmp_path / "m.safetensors", "discriminator", module, flipped)
    assert_same(load_model(tmp_path / "m.safetensors")[2], variables)


@pytest.mark.parametrize(
    ("network", "make"), [("discriminator", small_discriminator), ("vqgan", small_vqgan)]
)
def test_half_is_rounded_once_and_takes_half_the_space(network, make, tmp_path):
    module, variables = make()
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_model(whole, network, module, variables)
    save_model(half, network, module, variables, half=True)
    *same, found = load_model(half)
    assert same == [network, module]
    assert_same(found, rounded(variables))
    save_model(tmp_path / "again.safetensors", network, module, found, half=True)
    assert (tmp_path / "again.safetensors").read_bytes() == half.read_bytes()
    saved = whole.stat().st_size - half.stat().st_size
    assert abs(saved - 2 * sum(x.size for x in jax.tree.leaves(variables))) < 2048


@pytest.mark.parametrize("value", [65520.0, -1e30])
def test_half_refuses_values_that_it_cannot_hold(value, tmp_path):
    module, variables = small_discriminator()
    path = tmp_path / "m.safetensors"
    variables["params"]["main_0"]["bias"] = jnp.array([0, value, 1, jnp.nan], jnp.float32)
    with pytest.raises(ConversionError, match=r"params/main_0/bias has values up to .*65504"):
        save_model(path, "discriminator", module, variables, half=True)
    assert not path.exists()
    # Infinities and NaN are in float16 what they are in float32.
    held = jnp.array([65504, jnp.inf, -jnp.inf, jnp.nan], jnp.float32)
    variables["params"]["main_0"]["bias"] = held
    save_model(path, "discriminator", module, variables, half=True)
    assert_same(load_model(path)[2], rounded(variables))


def test_what_is_known_about_a_network_is_stored_beside_it(tmp_path):
    module, variables = small_discriminator()
    path, other = tmp_path / "m.safetensors", tmp_path / "other.safetensors"
    about = {"commit": "0123abc", "data": 'faces \u2013 "MIT"\n', "network": "mine"}
    save_model(path, "discriminator", module, variables, about=about)
    assert read_about(path) == about
    assert load_model(path)[0] == "discriminator"
    save_model(other, "discriminator", module, variables)
    assert read_about(other) == {}
    rewrite(other, format="other")
    with pytest.raises(ModelFileError, match=r"other\.safetensors: .* of another program"):
        read_about(other)


def test_equal_networks_give_equal_bytes(tmp_path):
    """Safetensors alone writes metadata in random order."""
    paths = [tmp_path / f"{i}.safetensors" for i in range(2)]
    for path in paths:
        about = dict.fromkeys("abcdef", "x")
        save_model(path, "discriminator", *small_discriminator(), about=about)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_header_whose_length_begins_like_a_pickle_is_read(tmp_path):
    module, variables = small_discriminator()
    path = tmp_path / "model.safetensors"
    save_model(path, "discriminator", module, variables)
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    padding = (0x80 - length) % 256  # Spaces behind the header belong to it.
    header = whole[8 : 8 + length] + b" " * padding
    head = (length + padding).to_bytes(8, "little")
    assert head.startswith(b"\x80")
    path.write_bytes(head + header + whole[8 + length :])
    assert load_model(path)[1] == module


def test_variables_of_another_module_are_refused_and_nothing_is_lost(tmp_path):
    module, variables = small_discriminator()
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"precious")
    cases = [
        ({"params": variables["params"]}, r"missing: batch_stats/main_3/mean float32\[8\]"),
        ({**variables, "more": {"x": np.zeros(1, "f4")}}, r"unexpected: more/x float32\[1\]"),
        (
            jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables),
            r"main_0/bias is bfloat16\[4\], expected float32\[4\]",
        ),
    ]
    for wrong, message in cases:
        with pytest.raises(ConversionError, match=message):
            save_model(path, "discriminator", module, wrong)
    with pytest.raises(ConversionError, match="'vqgan' is a VQGAN; got a PatchDiscriminator"):
        save_model(path, "vqgan", module, variables)
    with pytest.raises(ConversionError, match="unknown network 'gan'"):
        save_model(path, "gan", module, variables)
    assert path.read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def rewrite(path, **changes):
    """The model file with other metadata, or without a tensor ('drop')."""
    drop = changes.pop("drop", None)
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    tensors = {k: v for k, v in safetensors.numpy.load_file(path).items() if k != drop}
    safetensors.numpy.save_file(tensors, path, {**metadata, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, f"of another program .no format '{FORMAT}'"),
        ({"format_version": "2"}, "format version 2; this version reads 1"),
        ({"network": "gan"}, "unknown network 'gan'"),
        ({"hyperparameters": "{"}, "its description cannot be used"),
        ({"hyperparameters": json.dumps({"depth": 1})}, "has no hyperparameter depth"),
        ({"hyperparameters": json.dumps({"ndf": 0})}, "ndf and n_layers must be positive"),
        ({"hyperparameters": json.dumps({"ndf": 4})}, "missing: params/main_11/kernel"),
        ({"drop": "params/main_0/bias"}, r"missing: params/main_0/bias float32\[4\]"),
    ],
)
def test_files_that_do_not_fit_are_named(changes, message, tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(path, "discriminator", *small_discriminator())
    rewrite(path, **changes)
    with pytest.raises(ModelFileError, match=rf"m\.safetensors: (.|\n)*{message}"):
        load_model(path)


def test_unreadable_files_are_named(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(FileNotFoundError):
        load_model(path)
    save_model(path, "discriminator", *small_discriminator())
    whole = path.read_bytes()
    for content in (b"", b"hello, world", whole[:100], whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        for read in (load_model, read_about):
            with pytest.raises(ModelFileError, match=r"m\.safetensors: not a safetensors file"):
                read(path)
    write_pth(tmp_path / "w.pth", {"params": {}})
    with pytest.raises(ModelFileError, match=r"codeformer-jax convert w\.pth w\.safetensors"):
        load_model(tmp_path / "w.pth")


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "folder"
    with atomic_directory(target) as staged:
        (staged / "old").touch()
        assert not target.exists()

    def write(stop, replace):
        with atomic_directory(target, replace=replace) as staged:
            (staged / "new").touch()
            if stop:
                raise KeyboardInterrupt

    for replace in (False, True):
        with pytest.raises(KeyboardInterrupt):
            write(True, replace)
    with pytest.raises(OSError, match="not empty"):
        write(False, False)
    assert [p.name for p in target.iterdir()] == ["old"]
    write(False, True)
    assert [p.name for p in target.iterdir()] == ["new"]
    assert [p.name for p in target.parent.iterdir()] == ["folder"]
    assert target.stat().st_mode == target.parent.stat().st_mode


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    rename = os.rename

    def fail_on_new(source, target):
        if source.name == "new":
            raise OSError(errno.EIO, "broken disk")
        rename(source, target)

    def write():
        with atomic_directory(tmp_path / "folder", replace=True) as staged:
            (staged / "new file").touch()

    monkeypatch.setattr(os, "rename", fail_on_new)
    with pytest.raises(OSError, match="broken disk"):
        write()
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["old"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_file_has_the_permissions_of_any_new_one_and_the_umask_is_left_alone(
    tmp_path, monkeypatch
):
    """Other threads make files meanwhile, which must not be open to everyone."""
    (tmp_path / "any").touch()
    monkeypatch.delattr(os, "umask")
    with atomic_path(tmp_path / "file") as temporary:
        temporary.write_bytes(b"new")
    save_model(tmp_path / "model", "discriminator", *small_discriminator())
    for name in ("file", "model"):
        assert (tmp_path / name).stat().st_mode == (tmp_path / "any").stat().st_mode
