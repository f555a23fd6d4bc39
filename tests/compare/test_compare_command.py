"""`codeformer-jax trace` and `compare`: exit codes, bad input, files loaded again, the report."""

import dataclasses
import html.parser
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from codeformer_jax import cli, compare, convert, nn
from codeformer_jax.compare import sources
from codeformer_jax.compare.inputs import read_inputs, save_inputs
from codeformer_jax.convert.networks import expected_variables
from codeformer_jax.data.images import write_image

GAN = nn.PatchDiscriminator(ndf=4, n_layers=1)


def drawn(network, module, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: np.abs(rng.normal(0, 0.3, x.shape)).astype(np.float32),
        expected_variables(network, module),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights with an average beside them, a picture, its array, and the trace of both."""
    folder = tmp_path_factory.mktemp("compare")
    table = convert.to_torch("discriminator", drawn("discriminator", GAN, 0), GAN)
    other = convert.to_torch("discriminator", drawn("discriminator", GAN, 1), GAN)
    convert.write_pth(folder / "d.pth", {"params_ema": table, "params": other})
    module, variables = convert.from_torch("discriminator", table)
    convert.save_model(folder / "d.safetensors", "discriminator", module, variables)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    write_image(folder / "x.png", pixels)
    assert run(folder, "trace", "d.pth", "x.png", "-o", "a.trace", "--save-input", "x.npy") == 0
    return folder


def run(folder, command, *arguments):
    paths = [
        str(folder / word) if re.fullmatch(r"\w+\.(?!5$)\w+", word) else word for word in arguments
    ]
    return cli.main([command, *paths])


def altered(folder, name, change):
    """Writes the trace with `change` applied to the entry 'main.2'."""
    trace = compare.load(folder / "a.trace")
    entries = tuple(
        dataclasses.replace(e, **change(e)) if (e.kind, e.name) == ("activation", "main.2") else e
        for e in trace.entries
    )
    dataclasses.replace(trace, entries=entries).save(folder / name)
    return name


def test_both_kinds_of_files_give_one_trace(folder, capsys):
    assert run(folder, "trace", "d.safetensors", "x.npy", "-o", "b.trace", "--stride", "2") == 0
    assert re.fullmatch(r"\S+b\.trace: \d+ entries, 0\.\d MB, \d+\.\d s\n", capsys.readouterr().out)
    assert run(folder, "compare", "a.trace", "b.trace", "--tolerance", "0") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "layer"
    assert re.match(r"\d+ entries compared, 0 beyond 0;", lines[-1])
    trace = compare.load(folder / "b.trace")
    assert trace.source["inputs"] == [str(folder / "x.npy")]
    assert trace.call == {"train": False}


def test_a_difference_is_exit_code_1_and_named(folder, capsys):
    name = altered(folder, "c.trace", lambda e: {"array": e.array * 1.5})
    assert run(folder, "compare", "a.trace", name, "--only-differences") == 1
    out = capsys.readouterr().out
    assert len(out.split("\n\n")[0].splitlines()) == 2
    assert "first layer that differs: main.2, relative L2 3.33e-01" in out
    assert re.search("last layer that agrees: main.[01]\n", out)
    assert "no suspect" not in out
    assert run(folder, "compare", "a.trace", name, "--tolerance", "0.5") == 0


def test_nan_is_exit_code_1_and_named(folder, capsys):
    def broken(entry):
        array = entry.array.copy()
        array[0, 0] = np.nan
        return {"array": array, "nonfinite": 64}

    assert run(folder, "compare", altered(folder, "n.trace", broken), "a.trace") == 1
    out = capsys.readouterr().out
    assert "first layer with infinities or NaN: main.2 (64 values in A, 0 in B)" in out


def saved(folder, name, **fields):
    dataclasses.replace(compare.load(folder / "a.trace"), **fields).save(folder / name)


def test_unusable_traces_are_exit_code_2(folder, capsys):
    trace = compare.load(folder / "a.trace")
    (folder / "cut.trace").write_bytes((folder / "a.trace").read_bytes()[:-9])
    strange = [dataclasses.replace(e, name=f"x{i}", array=np.zeros(i + 7), shape=(i + 7,), stride=1)
               for i, e in enumerate(trace.entries)]  # fmt: skip
    saved(folder, "other.trace", entries=tuple(strange), weights={}, network="")
    for name, message in {
        "cut.trace": "truncated file",
        "gone.trace": "no such file",
        "x.npy": "not a trace",
        "other.trace": "no layer of one trace has a counterpart",
    }.items():
        assert run(folder, "compare", "a.trace", name) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("codeformer-jax: error: ")
        assert message in err
        assert err.count("\n") == 1
    assert run(folder, "compare", "a.trace", "a.trace", "-o", "a.trace") == 2
    assert "must end in .html" in capsys.readouterr().err


def test_other_inputs_and_weights_are_refused_without_force(folder, capsys):
    write_image(folder / "y.png", np.zeros((16, 16, 3), np.uint8))
    assert run(folder, "trace", "d.pth", "y.png", "-o", "y.trace", "--key", "params") == 0
    capsys.readouterr()
    assert run(folder, "compare", "a.trace", "y.trace") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "inputs differ: 1 of 1" in err
    assert "weights differ: " in err
    assert "--force" in err
    assert run(folder, "compare", "a.trace", "y.trace", "--force") == 1
    assert "note: inputs differ" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["d.pth", "x.png", "x.png", "-o", "e.trace"], "discriminator takes 1 file; got 2"),
        (["d.pth", "none.png", "-o", "e.trace"], "none.png: no such file"),
        (["none.pth", "x.png", "-o", "e.trace"], "none.pth: no such file"),
        (["x.png", "x.png", "-o", "e.trace"], "not a PyTorch file"),
        (["d.pth", "x.png", "-o", "a.trace"], "pass --force"),
        (["d.pth", "x.png", "-o", "e.trace", "--call", '{"w": 1}'], "has no keyword w"),
        (["d.pth", "x.png", "-o", "e.trace", "--device", "tpu:9"], "no 'tpu:9' on this machine"),
        (["d.pth", "x.png", "-o", "e.trace", "--network", "vqgan"], "d.pth: "),
        (["d.safetensors", "x.png", "-o", "e.trace", "--set", "ndf=4"], "knows its settings"),
        (["d.safetensors", "x.png", "-o", "e.trace", "--network", "vqgan"], "holds the network"),
        (["d.pth", "tiny.png", "-o", "e.trace"], "tiny.png: "),
    ],
)
def test_what_cannot_be_traced_is_exit_code_2(folder, arguments, message, capsys):
    write_image(folder / "tiny.png", np.zeros((2, 2, 3), np.uint8))
    assert run(folder, "trace", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert not (folder / "e.trace").exists()


def test_the_script_for_pytorch_is_written_once(folder, capsys):
    for code in (0, 2):
        with pytest.raises(SystemExit) as end:
            cli.main(["trace", "--torch-script", str(folder / "trace_torch.py")])
        assert end.value.code == code
    assert "exists" in capsys.readouterr().err
    assert "def record_step(" in (folder / "trace_torch.py").read_text()


def test_inputs_are_read_in_both_layouts(tmp_path):
    rng = np.random.default_rng(0)
    bytes_ = rng.integers(0, 256, (2, 3, 6, 5)).astype(np.uint8)
    images = bytes_.transpose(0, 2, 3, 1).astype(np.float32) / np.float32(127.5) - 1
    variants = {
        "a": bytes_, "b": images, "c": images.transpose(0, 3, 1, 2), "d": images.astype(float)
    }  # fmt: skip
    for name, array in variants.items():
        np.save(tmp_path / f"{name}.npy", array)
        (read,) = read_inputs([tmp_path / f"{name}.npy"], "discriminator", GAN)
        assert read.dtype == np.float32, name
        assert np.array_equal(read, images), name
    files = save_inputs(tmp_path / "both.npy", [images, images])
    assert [file.name for file in files] == ["both.0.npy", "both.1.npy"]
    assert np.array_equal(np.load(files[1]), variants["c"])
    read = read_inputs(files, "lpips", nn.LPIPS())
    assert all(np.array_equal(images, array) for array in read)
    with pytest.raises(ValueError, match="must end in"):
        save_inputs(tmp_path / "x.png", [images])


@pytest.mark.parametrize(
    ("network", "array", "message"),
    [
        ("vqgan", np.zeros((8, 8, 3), np.float32), r"float32 \[8, 8, 3\]; expected \[batch, 3"),
        ("vqgan", np.zeros((1, 8, 8, 3), np.int32), r"int32 \[1, 8, 8, 3\]; images are floating"),
        ("taming_gpt", np.zeros((1, 4), np.float32), "taming_gpt takes integers"),
        ("vqgan", np.array([None]), "not a .npy file of numbers"),
    ],
)
def test_arrays_of_another_form_are_refused(tmp_path, network, array, message):
    np.save(tmp_path / "x.npy", array)
    module = nn.VQGAN() if network == "vqgan" else nn.GPT()
    with pytest.raises(ValueError, match=message):
        read_inputs([tmp_path / "x.npy"], network, module)


def test_integers_are_read_as_they_are(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(4)[None])
    (tokens,) = read_inputs([tmp_path / "x.npy"], "taming_gpt", nn.GPT())
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [[0, 1, 2, 3]]
    write_image(tmp_path / "x.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match="takes integers"):
        read_inputs([tmp_path / "x.png"], "taming_gpt", nn.GPT())


def test_a_saved_trace_is_computed_again_from_unchanged_files(folder, tmp_path):
    trace = sources.restored(compare.load(folder / "a.trace"))
    assert trace.rerun.network == "discriminator"
    assert set(trace.rerun.others) == {"params"}
    assert trace.rerun.kwargs == {"train": False}
    assert sources.restored(trace) is trace
    write_image(tmp_path / "y.png", np.zeros((16, 16, 3), np.uint8))
    for field, value, message in [
        ("inputs", [str(tmp_path / "y.png")], "y.png: changed since"),
        ("inputs", [str(tmp_path / "z.png")], "z.png: no such file"),
        ("key", "params", "d.pth: changed since"),
        ("weights", str(folder), "a folder"),
    ]:
        other = dataclasses.replace(trace, rerun=None, source={**trace.source, field: value})
        with pytest.raises(compare.TraceError, match=message):
            sources.restored(other)
    with pytest.raises(compare.TraceError, match="does not name its files"):
        sources.restored(dataclasses.replace(trace, rerun=None, source={}))


def test_a_workdir_is_loaded_by_the_callers_function(folder):
    network, module, variables = convert.load_model(folder / "d.safetensors")
    run = SimpleNamespace(network=network, module=module, variables=variables, precision="highest")
    options = {"load_workdir": lambda path: run}
    trace = sources.trace_files(folder, [folder / "x.png"], **options, dtype="bfloat16")
    assert trace.made_by["precision"] == "highest"
    assert trace.made_by["dtype"] == "bfloat16"
    again = sources.restored(dataclasses.replace(trace, rerun=None), **options)
    assert jax.numpy.dtype(again.rerun.module.dtype) == "bfloat16"


def test_why_suspects_were_not_tried_is_said(folder, capsys):
    a = compare.load(folder / "a.trace")
    b = compare.load(folder / altered(folder, "s.trace", lambda e: {"array": 2 * e.array}))
    for name, trace in (("a1.trace", a), ("b1.trace", b)):
        dataclasses.replace(trace, source={}).save(folder / name)
    assert run(folder, "compare", "a1.trace", "b1.trace") == 1
    assert "no suspect: of A, it does not name its files" in capsys.readouterr().out


class Page(html.parser.HTMLParser):
    """Collects addresses and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_the_report_says_the_verdict_and_requests_nothing(folder, capsys):
    name = altered(folder, "r.trace", lambda e: {"array": e.array * 2})
    assert run(folder, "compare", "a.trace", name, "-o", "report.html") == 1
    assert f"report: {folder / 'report.html'}" in capsys.readouterr().out
    page = Page((folder / "report.html").read_text("utf-8"))
    assert "The traces differ" in page.text
    assert "main.2: relative L2 5.00e-01" in page.text
    assert str(folder / "d.pth") in page.text
    assert "only rows beyond" in page.text
    assert page.addresses
    assert all(a.startswith("data:image/svg") for a in page.addresses)
    same = compare.compare(folder / "a.trace", folder / "a.trace")
    assert "The traces agree" in Page(same.html()).text


def test_the_report_shows_gradients_codes_and_lonely_names():
    def trace(values, codes, extra):
        entries = [
            compare.Entry.whole(kind, f"{kind[:3]}{i}", np.full((2, 2), float(value)))
            for kind in ("activation", "activation_gradient", "gradient", "parameter")
            for i, value in enumerate(values)
        ]
        entries += [
            compare.Entry.whole("code", "codes", np.array(codes)),
            compare.Entry.whole("margin", "codes", np.array([0.5, 1e-7])),
            compare.Entry.whole("activation", extra, np.ones(3)),
        ]
        return compare.Trace(tuple(entries), {"framework": "test <1>"})

    found = compare.compare(
        trace([0, 1, 2], [3, 4], "left"), trace([0, 1, np.nan], [3, 5], "right")
    )
    page = Page(found.html())
    assert len(page.addresses) == 4  # A chart per kind.
    for text in ("codes[1]", "1.0e-07", "Only in A", "left", "right", "test <1>", "or NaN"):
        assert text in page.text
