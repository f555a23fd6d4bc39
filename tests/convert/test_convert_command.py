import json
import os
import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from codeformer_jax import cli
from codeformer_jax.convert import (
    ChecksumError,
    ConversionError,
    ModelFileError,
    PthError,
    UnsafePickleError,
    convert_file,
    files,
    load_model,
    parse_overrides,
    read_pth,
    verify,
    write_pth,
)

DATA = Path(__file__).parent / "data"


@pytest.fixture
def source(tmp_path, table_of):
    """A discriminator's `.pth` in a folder of its own."""
    path = tmp_path / "in" / "weights.pth"
    write_pth(path, {"params_d": table_of("discriminator_0")})
    return path


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_a_slash_at_the_end_means_a_folder(source, out):
    assert cli.main(["convert", str(source), f"{out}/new/"]) == 0
    assert [path.name for path in (out / "new").iterdir()] == ["weights.safetensors"]


def test_there_and_back(source, out):
    summary = convert_file(source, out / "model.safetensors")
    assert (summary.network, summary.tensors) == ("discriminator", 22)
    assert summary.hyperparameters == {"ndf": 32, "n_layers": 3, "dtype": "float32"}
    text = str(summary)
    assert f"{source} -> {out}/model.safetensors" in text
    assert "unverified: no published file has SHA-256" in text
    network, module, _ = load_model(summary.target)
    assert (network, module.ndf) == ("discriminator", 32)
    back = convert_file(summary.target, out / "back.pth", to_torch=True)
    assert (back.network, back.target) == ("discriminator", out / "back.pth")
    found, expected = read_pth(back.target)["params_d"], read_pth(source)["params_d"]
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].tobytes() == array.tobytes()
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)


def test_pytorch_loads_the_result_strictly(source, out):
    torch = pytest.importorskip("torch")
    model = convert_file(source, out).target
    table = torch.load(convert_file(model, out, to_torch=True).target, weights_only=True)
    layers = [torch.nn.Conv2d(3, 32, 4, 2, 1), torch.nn.LeakyReLU()]
    for i, o, stride in ((32, 64, 2), (64, 128, 2), (128, 256, 1)):
        layers += [torch.nn.Conv2d(i, o, 4, stride, 1, bias=False), torch.nn.BatchNorm2d(o)]
        layers.append(torch.nn.LeakyReLU())
    network = torch.nn.ModuleDict(
        {"main": torch.nn.Sequential(*layers, torch.nn.Conv2d(256, 1, 4))}
    )
    network.load_state_dict(table["params_d"], strict=True)


@pytest.mark.parametrize(
    ("target", "written"),
    [
        ("", "weights.safetensors"),
        ("new/", "new/weights.safetensors"),
        ("model", "model.safetensors"),
        ("a/b/model.safetensors", "a/b/model.safetensors"),
    ],
)
def test_where_the_result_goes(target, written, source, out):
    summary = convert_file(source, f"{out}/{target}", network="discriminator")
    assert summary.target == out / written
    assert [p for p in out.rglob("*") if p.is_file()] == [out / written]


def test_nothing_is_overwritten_without_force(source, out):
    target = out / "weights.safetensors"
    target.write_bytes(b"precious")
    for given in (target, out, out / "weights"):
        with pytest.raises(FileExistsError, match=r"weights\.safetensors: exists; pass --force"):
            convert_file(source, given)
    assert target.read_bytes() == b"precious"
    convert_file(source, target, force=True)
    assert load_model(target)[0] == "discriminator"


def test_options_are_used(out, tmp_path, table_of):
    table = table_of("vqgan_gumbel_0")
    path = tmp_path / "several.pth"
    write_pth(path, {"params_ema": {"x": np.zeros(1, "f4")}, "ours": table})
    given = parse_overrides(["image_size=64", "norm_groups=32", "beta=1", "dtype=bfloat16"])
    summary = convert_file(path, out, network="auto", key="ours", overrides=given)
    _, module, _ = load_model(summary.target)
    assert (module.attn_resolutions, module.beta) == ((16,), 1)
    assert module.dtype.dtype.name == "bfloat16"
    assert module.quantizer == "gumbel"


def test_parse_overrides():
    pairs = ["nf=32", "ch_mult=1,2, 2", "connect_list=64,", "quantizer=gumbel", "ema_decay=None"]
    assert parse_overrides(pairs) == {
        "nf": 32,
        "ch_mult": (1, 2, 2),
        "connect_list": (64,),
        "quantizer": "gumbel",
        "ema_decay": None,
    }
    for pair in ("nf", "=3"):
        with pytest.raises(ConversionError, match="expected KEY=VALUE"):
            parse_overrides([pair])


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("BF16", ml_dtypes.bfloat16),
        ("F8_E4M3", ml_dtypes.float8_e4m3fn),
        ("F8_E5M2", ml_dtypes.float8_e5m2),
        ("F8_E8M0", None),
    ],
)
def test_safetensors_of_narrow_dtypes(kind, dtype, out, tmp_path, table_of):
    table = table_of("discriminator_0")
    header, content = {}, b""
    for name, array in table.items():
        raw = np.zeros(array.shape, "u1") if dtype is None else array.astype(dtype)
        span = [len(content), len(content) + raw.nbytes]
        header[name] = {"dtype": kind, "shape": list(raw.shape), "data_offsets": span}
        content += raw.tobytes()
    head = json.dumps(header).encode()
    path = tmp_path / "narrow.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head + content)
    if dtype is None:
        with pytest.raises(
            ModelFileError, match=r"narrow\.safetensors: main\..* has dtype F8_E8M0"
        ):
            convert_file(path, out)
        return
    _, _, variables = load_model(convert_file(path, out).target)
    kernel = variables["params"]["main_0"]["kernel"]
    expected = table["main.0.weight"].astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(kernel, expected.transpose(2, 3, 1, 0))


def test_several_sources_are_one_table(source, out, tmp_path):
    table = read_pth(source)["params_d"]
    halves = [tmp_path / "1.pth", tmp_path / "2.pth"]
    for i, path in enumerate(halves):
        write_pth(path, {k: v for n, (k, v) in enumerate(table.items()) if n % 2 == i})
    assert convert_file(halves, out).tensors == 22
    with pytest.raises(ConversionError, match=r"2\.pth: holds names that another source has"):
        convert_file([source, *reversed(halves)], out / "other")


class _Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def bad_sources(tmp_path, table_of, make_pth):
    """Writes every bad source; returns the file that the malicious one would make."""
    table = table_of("discriminator_0")
    marker = tmp_path / "was_run"
    short = dict(list(table.items())[:-1])
    trees = {
        "short": {"params": short},
        "unknown": {"params": {"a": np.zeros(1, "f4")}},
        "no_table": {"model": 1},
    }
    for name, tree in trees.items():
        write_pth(tmp_path / f"{name}.pth", tree)
    (tmp_path / "text.pth").write_text("hello")
    whole = (tmp_path / "short.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "codeformer.pth").write_bytes(whole)
    made = make_pth(pickle.dumps({"params": _Malicious(marker)}, 2))
    made.rename(tmp_path / "malicious.pth")
    return marker


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("short", ConversionError, r"missing \(1\):\n    main\.11\.bias \[1\]"),
        ("unknown", ConversionError, "cannot tell the network from 1 names"),
        ("no_table", ConversionError, r"the file has 'model' \(int\)"),
        ("text", PthError, "not a PyTorch file"),
        ("cut", PthError, "truncated or corrupt"),
        ("codeformer", ChecksumError, "has 1009e537(.|\n)*--no-verify"),
        ("malicious", UnsafePickleError, r"refused: the pickle names '\w+\.system'"),
        ("none", FileNotFoundError, "no such file"),
    ],
)
def test_bad_sources_are_named_and_nothing_is_written(name, error, message, bad_sources, out):
    (out / "kept.safetensors").write_bytes(b"precious")
    for target in (out / "new" / "model", out / "kept"):
        with pytest.raises(error, match=rf"{name}\.pth: (.|\n)*{message}"):
            convert_file(bad_sources.with_name(f"{name}.pth"), target, force=True)
    assert not bad_sources.exists()
    assert [p.name for p in out.rglob("*")] == ["kept.safetensors"]
    assert (out / "kept.safetensors").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": "model.pth"}, ConversionError, "ends in .safetensors; .*pass --to-torch"),
        ({"target": "m.npz", "to_torch": True}, ConversionError, "ends in .pth; .*leave out"),
        ({"to_torch": True}, ModelFileError, "this is a PyTorch file; convert it first"),
        ({"network": "gan"}, ConversionError, r"weights\.pth: unknown network 'gan'"),
        ({"network": "vqgan"}, ConversionError, r"weights\.pth: the encoder is not complete"),
        ({"key": "params"}, ConversionError, r"no table of tensors under 'params'"),
        ({"overrides": {"width": 1}}, ConversionError, "has no hyperparameter width"),
        ({"to_torch": True, "overrides": {"ndf": 1}}, ConversionError, "takes one model file"),
    ],
)
def test_bad_options_are_named_and_nothing_is_written(options, error, message, source, out):
    before = source.read_bytes()
    options = dict(options)
    with pytest.raises(error, match=message):
        convert_file(source, out / options.pop("target", "model"), **options)
    assert list(out.iterdir()) == []
    assert source.read_bytes() == before


def test_model_files_as_sources(source, out):
    model = convert_file(source, out).target
    with pytest.raises(ConversionError, match="already a model file; --to-torch converts it back"):
        convert_file(model, out / "again")
    with pytest.raises(ConversionError, match="holds the network 'discriminator', not 'vqgan'"):
        convert_file(model, out / "again", to_torch=True, network="vqgan")
    with pytest.raises(ConversionError, match="source and target are the same file"):
        convert_file(model, out / "." / "weights", force=True)
    with pytest.raises(ConversionError, match="nothing to convert"):
        convert_file([], out)
    assert [p.name for p in out.iterdir()] == ["weights.safetensors"]


def test_checksums(source, out, tmp_path, monkeypatch):
    sha256 = verify(source).sha256
    assert verify(source).published_as is None
    monkeypatch.setitem(files.PUBLISHED, "weights.pth", sha256)
    assert str(verify(source)) == "verified: SHA-256 is that of the published weights.pth"
    renamed = source.rename(tmp_path / "mine.pth")
    assert verify(renamed).published_as == "weights.pth"
    fake = tmp_path / "weights.pth"
    write_pth(fake, {"params": {"other": np.zeros(1, "f4")}})
    with pytest.raises(ChecksumError, match=rf"the published weights\.pth has {sha256}"):
        verify(fake)
    fake.write_bytes(renamed.read_bytes())
    monkeypatch.setitem(files.PUBLISHED, "weights.pth", "0" * 64)
    with pytest.raises(ChecksumError):
        convert_file(fake, out)
    assert convert_file(fake, out, verify=False).verifications == ()


def test_a_file_of_pytorch_converts_up_to_its_names(out):
    with pytest.raises(ConversionError, match=r"zip\.pth\.bin: cannot tell the network from 11"):
        convert_file(DATA / "zip.pth.bin", out)
