import subprocess
import sys
import types

import pytest

import codeformer_jax
from codeformer_jax import cli


def pretend_convert(monkeypatch, convert_file):
    monkeypatch.setattr("codeformer_jax.convert.conversion.convert_file", convert_file)


def pretend_export(monkeypatch, export_trained):
    # In place of the real module, which imports JAX and Orbax.
    name = "codeformer_jax.checkpoints.trained"
    module = types.ModuleType(name)
    module.export_trained = export_trained
    monkeypatch.setitem(sys.modules, name, module)


def pretend_demo(monkeypatch, run):
    module = types.ModuleType("codeformer_jax.demo")
    module.run = run
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(codeformer_jax, "demo", module, raising=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["restore", "--help"],
        ["testset", "--help"],
        ["gallery", "--help"],
        ["sample", "--help"],
        ["trace", "--help"],
        ["compare", "--help"],
        ["--version"],
    ],
)
def test_help_imports_no_jax(arguments):
    code = f"""
import sys
from codeformer_jax import cli
try:
    cli.main({arguments})
except SystemExit as end:
    assert end.code == 0
assert not {{"jax", "numpy", "flax"}} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    expected = "codeformer-jax 0.1.0" if arguments == ["--version"] else "usage: codeformer-jax"
    assert done.stdout.startswith(expected)


@pytest.mark.parametrize(
    "command",
    [
        *("restore", "sample", "convert", "export", "trace", "compare"),
        *("prepare", "encode", "testset", "gallery", "demo"),
    ],
)
def test_help_lists_the_commands(command, capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert f"\n    {command} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["paint"], "invalid choice: 'paint'"),
        (["restore", "faces"], "required: -o/--output"),
        (["restore", "-o", "out"], "required: INPUT"),
        (["restore", "faces", "-o", "out", "-w", "half"], "-w/--fidelity: invalid float value"),
        (["restore", "faces", "-o", "out", "--force", "--skip-existing"], "not allowed with"),
        (["restore", "faces", "-o", "out", "--format", "gif"], "invalid choice: 'gif'"),
        (["convert", "weights.pth"], "required: TARGET"),
        (["export", "runs/stage3"], "required: TARGET"),
        (["gallery"], "required: OUT"),
        (["gallery", "out.png", "-n", "few"], "-n: invalid int value"),
        (["testset"], "required: GT"),
        (["testset", "faces", "set", "--seed", "x"], "--seed: invalid int value"),
        (["sample"], "required: --checkpoint"),
        (["sample", "--checkpoint", "x", "-n", "few"], "-n: invalid int value"),
        (["encode", "runs/vqgan"], "required: OUT"),
        (["trace", "net.pth", "x.npy"], "required: -o/--output"),
        (["trace", "net.pth", "-o", "a.trace"], "required: INPUT"),
        (["trace", "net.pth", "x.npy", "-o", "a", "--call", "w=1"], "'w=1' is not JSON"),
        (["trace", "net.pth", "x.npy", "-o", "a", "--call", "1"], "'1' is not an object"),
        (["trace", "net.pth", "x.npy", "-o", "a", "--stride", "0"], "not a positive integer"),
        (["trace", "net.pth", "x.npy", "-o", "a", "--dtype", "int8"], "invalid choice: 'int8'"),
        (["compare", "a.trace"], "required: B"),
        (["compare", "a", "b", "--tolerance", "-1"], "not a number of at least 0"),
        (["encode", "runs/vqgan", "codes", "--size", "big"], "--size: invalid int value"),
    ],
)
def test_usage_errors(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_convert(monkeypatch, capsys):
    calls = []

    def convert_file(source, target, **options):
        calls.append((source, target, options))
        return "converted"

    pretend_convert(monkeypatch, convert_file)
    arguments = ["a.pth", "b.pth", "out", "--network", "lpips", "--no-verify", "--set", "nf=32"]
    assert cli.main(["convert", *arguments]) == 0
    assert cli.main(["convert", "m.safetensors", "m.pth", "--to-torch", "--force"]) == 0
    defaults = {"to_torch": False, "force": False, "key": None}
    assert calls == [
        (
            ["a.pth", "b.pth"],
            "out",
            {**defaults, "network": "lpips", "verify": False, "overrides": {"nf": 32}},
        ),
        (
            ["m.safetensors"],
            "m.pth",
            {"network": None, "to_torch": True, "force": True, "verify": True, "key": None}
            | {"overrides": {}},
        ),
    ]
    assert capsys.readouterr().out == "converted\n" * 2


@pytest.mark.parametrize("error", [ValueError("names missing: x"), FileExistsError("out: exists")])
def test_convert_errors_are_messages(monkeypatch, capsys, error):
    def convert_file(*args, **options):
        raise error

    pretend_convert(monkeypatch, convert_file)
    assert cli.main(["convert", "a.pth", "out"]) == 2
    assert capsys.readouterr().err == f"codeformer-jax: error: {error}\n"


def test_export(monkeypatch, capsys):
    calls = []

    def export_trained(workdir, target, **options):
        calls.append((workdir, target, options))
        return types.SimpleNamespace(network="codeformer", step=7)

    pretend_export(monkeypatch, export_trained)
    assert cli.main(["export", "runs/a", "a.safetensors"]) == 0
    assert cli.main(["export", "runs/a", "b.safetensors", "--which", "best", "--force"]) == 0
    words = ["--half", "--about", "licence=MIT", "--about", "config=a.py:b=c"]
    assert cli.main(["export", "runs/a", "c.safetensors", *words]) == 0
    plain = {"half": False, "about": {}}
    described = {"half": True, "about": {"licence": "MIT", "config": "a.py:b=c"}}
    assert calls == [
        ("runs/a", "a.safetensors", {**plain, "which": "latest", "force": False}),
        ("runs/a", "b.safetensors", {**plain, "which": "best", "force": True}),
        ("runs/a", "c.safetensors", {"which": "latest", "force": False, **described}),
    ]
    first, *_ = capsys.readouterr().out.splitlines()
    assert first == "runs/a at step 7 -> a.safetensors (codeformer)"


@pytest.mark.parametrize("text", ["licence", "=MIT"])
def test_export_about_needs_a_name(text, capsys):
    with pytest.raises(SystemExit):
        cli.main(["export", "runs/a", "a.safetensors", "--about", text])
    assert f"'{text}' is not NAME=TEXT" in capsys.readouterr().err


@pytest.mark.parametrize("error", [FileNotFoundError("no run at x"), ValueError("name it x")])
def test_export_errors_are_messages(monkeypatch, capsys, error):
    def export_trained(workdir, target, **options):
        raise error

    pretend_export(monkeypatch, export_trained)
    assert cli.main(["export", "runs/a", "a.safetensors"]) == 2
    assert capsys.readouterr() == ("", f"codeformer-jax: error: {error}\n")


def test_bugs_keep_their_traceback(monkeypatch):
    def convert_file(*args, **options):
        raise TypeError("a bug")

    pretend_convert(monkeypatch, convert_file)
    with pytest.raises(TypeError, match="a bug"):
        cli.main(["convert", "a.pth", "out"])


def test_a_platform_that_is_not_here_is_a_message(monkeypatch, capsys):
    def convert_file(*args, **options):
        raise RuntimeError("Unable to initialize backend 'tpu': it is not there")

    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    pretend_convert(monkeypatch, convert_file)
    assert cli.main(["convert", "a.pth", "out"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("codeformer-jax: error: JAX_PLATFORMS=tpu: JAX cannot compute on such a")


@pytest.mark.parametrize("flag", ["--dir", "--workdir"])
def test_demo(monkeypatch, flag):
    calls = []

    def run(directory, short, data):
        calls.append((directory, short, data))
        return len(calls) - 1

    pretend_demo(monkeypatch, run)
    assert cli.main(["demo"]) == 0
    assert cli.main(["demo", flag, "d", "--short", "--data", "faces"]) == 1
    assert calls == [("demo", False, None), ("d", True, "faces")]


def test_interrupt_is_quiet(monkeypatch, capsys):
    def run(directory, short, data):
        raise KeyboardInterrupt

    pretend_demo(monkeypatch, run)
    assert cli.main(["demo"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("command", ["sample", "restore"])
def test_a_default_of_zero_is_shown(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    assert "only; default 0" in " ".join(capsys.readouterr().out.split())
