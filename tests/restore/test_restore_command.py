import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from codeformer_jax import cli
from codeformer_jax.data.images import read_image, write_image
from codeformer_jax.restore import Restorer
from codeformer_jax.restore.embedded import DESCRIPTION


@pytest.fixture
def faces(tmp_path, picture, monkeypatch):
    """The current directory holds faces/{1,2}.png."""
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        write_image(tmp_path / "faces" / f"{seed}.png", picture(40, 40, seed))
    return tmp_path / "faces"


@pytest.mark.usefixtures("faces", "embedded_network")
def test_restores(tmp_path, restorer, capsys):
    args = ["restore", "faces", "faces/1.png", "--aligned"]
    assert cli.main([*args, "-o", "out/x", "-w", "0.8"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{DESCRIPTION}\n2 of 2 images restored in ")
    assert sorted(path.name for path in (tmp_path / "out" / "x").iterdir()) == ["1.png", "2.png"]
    result = read_image("out/x/1.png").pixels.astype(int)
    assert abs(result - restorer(read_image("faces/1.png").pixels, w=0.8)).max() <= 1


@pytest.mark.usefixtures("faces", "embedded_network")
def test_options_reach_the_network(restorer):
    args = ["restore", "faces", "--aligned", "-o", "out", "-w", "1", "--no-adain"]
    assert cli.main([*args, "--batch-size", "2", "--limit", "1", "--suffix", "_r"]) == 0
    result = read_image("out/1_r.png").pixels.astype(int)
    expected = restorer(read_image("faces/1.png").pixels, w=1, adain=False)
    assert abs(result - expected).max() <= 1


@pytest.mark.usefixtures("embedded_network")
def test_gray_known_and_large_pictures_by_options(tmp_path, picture, monkeypatch, capsys):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.chdir(tmp_path)
    gray = picture(32, 32)
    gray[:] = gray[..., :1]
    gray[:8] = 255
    write_image("in/gray.png", gray)
    assert cli.main(["restore", "in", "--aligned", "-o", "kept"]) == 1
    assert "decompression bombs); max_megapixels of restore" in capsys.readouterr().err
    large = ["--max-megapixels", "0.002"]
    for name, options in (
        ("kept", []),
        ("colour", ["--no-keep-gray"]),
        ("known", ["--keep-known"]),
    ):
        assert cli.main(["restore", "in", "--aligned", "-o", name, *large, *options]) == 0
    kept, colour, known = (
        read_image(f"{name}/gray.png", 0.002).pixels for name in ("kept", "colour", "known")
    )
    assert np.all(kept == kept[..., :1])
    assert not np.all(colour == colour[..., :1])
    assert np.array_equal(known[8:], gray[8:])
    assert np.array_equal(known[:8], kept[:8])


@pytest.mark.usefixtures("embedded_network")
def test_files_that_are_not_pictures_are_named_and_no_failure(faces, capsys):
    (faces / "README.txt").write_text("notes")
    assert cli.main(["restore", "faces", "--aligned", "-o", "out"]) == 0
    assert "left out 1 file that is not a picture: 'faces/README.txt'" in capsys.readouterr().out


@pytest.mark.usefixtures("embedded_network")
def test_unreadable_among_readable(faces, capsys):
    (faces / "broken.png").write_bytes(b"x")
    assert cli.main(["restore", "faces", "--aligned", "-o", "out"]) == 1
    captured = capsys.readouterr()
    assert "2 of 3 images restored" in captured.out
    assert "not restored (1):\n  faces/broken.png: " in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.usefixtures("faces", "embedded_network")
def test_never_overwrites_without_force(tmp_path, capsys):
    assert cli.main(["restore", "faces", "--aligned", "-o", "out", "-w", "0"]) == 0
    first = (tmp_path / "out" / "1.png").read_bytes()
    assert cli.main(["restore", "faces", "--aligned", "-o", "out", "-w", "1"]) == 2
    assert (tmp_path / "out" / "1.png").read_bytes() == first
    err = capsys.readouterr().err
    assert "error: 2 of 2 files exist already:\n  out/1.png\n  out/2.png\n--force" in err
    args = ["restore", "faces", "--aligned", "-o", "out", "-w", "1"]
    assert cli.main([*args, "--skip-existing"]) == 0
    assert (tmp_path / "out" / "1.png").read_bytes() == first
    assert cli.main([*args, "--force"]) == 0
    assert (tmp_path / "out" / "1.png").read_bytes() != first


@pytest.mark.usefixtures("faces")
def test_a_network_that_is_named_needs_no_words(model_file, capsys):
    args = ["restore", "faces", "--aligned", "-o", "out", "--checkpoint", str(model_file)]
    assert cli.main(args) == 0
    assert capsys.readouterr().out.startswith("2 of 2 images restored in ")


def test_the_help_says_how_to_get_512_px(capsys):
    with pytest.raises(SystemExit):
        cli.main(["restore", "--help"])
    text = capsys.readouterr().out
    assert "see --help" in DESCRIPTION
    assert "codeformer-jax convert codeformer.pth codeformer.safetensors" in text


@pytest.mark.usefixtures("faces")
@pytest.mark.parametrize("content", [None, b"", b"half"])
def test_an_incomplete_installation_is_named(content, tmp_path, monkeypatch, capsys):
    file = tmp_path / "photos128.safetensors"
    monkeypatch.setattr("codeformer_jax.restore.embedded.FILE", file)
    if content is not None:
        file.write_bytes(content)
    assert cli.main(["restore", "faces", "--aligned", "-o", "out"]) == 2
    err = capsys.readouterr().err
    assert "error: the embedded network cannot be loaded (" in err
    assert f"{file}" in err
    assert "reinstall codeformer-jax, or give the path of another network (--checkpoint)" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("faces")
def test_wrong_network(tmp_path, vqgan_file, capsys):
    args = ["restore", "faces", "--aligned", "-o", "out"]
    assert cli.main([*args, "--checkpoint", str(vqgan_file)]) == 2
    assert "holds the network 'vqgan'; restoration needs codeformer" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("faces")
def test_converted_there_and_back_restores_the_same(tmp_path, model_file):
    path = pathlib.Path(shutil.copy(model_file, tmp_path / "model.safetensors"))
    args = ["restore", "faces", "--aligned", "--checkpoint", str(path)]
    assert cli.main([*args, "-o", "before"]) == 0
    assert cli.main(["convert", str(path), "model.pth", "--to-torch"]) == 0
    assert cli.main(["convert", "model.pth", str(path)]) == 2
    assert cli.main(["convert", "model.pth", str(path), "--force"]) == 0
    assert cli.main([*args, "-o", "after"]) == 0
    for name in ("1.png", "2.png"):
        before, after = (tmp_path / folder / name for folder in ("before", "after"))
        assert before.read_bytes() == after.read_bytes()


@pytest.mark.usefixtures("embedded_network")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["faces", "-o", "out", "-w", "1.3"], "w is 1.3; expected a number from 0"),
        (["faces", "-o", "out", "-w", "nan"], "w is nan"),
        (["faces", "-o", "out", "--batch-size", "0"], "batch size is 0"),
        (["faces", "-o", "out", "--limit", "-1"], "limit is -1"),
        (["faces", "-o", "out", "--max-megapixels", "0"], "max_megapixels is 0.0"),
        (["faces", "-o", "out", "--checkpoint", "none"], "no checkpoint 'none'; expected"),
        (["faces", "-o", "out", "--checkpoint", "faces/1.png"], "is not a model: expected"),
        (["faces", "-o", "out", "--checkpoint", "faces"], "faces is neither a model file nor a"),
        (["faces", "-o", "faces"], "is an input folder"),
        (["faces", "-o", "faces/1.png"], "File exists: 'faces/1.png'"),
        (["nowhere", "-o", "out"], "no image found in 'nowhere'"),
    ],
)
def test_errors_are_messages(tmp_path, faces, capsys, arguments, message):
    before = {path: path.read_bytes() for path in faces.iterdir()}
    assert cli.main(["restore", *arguments, "--aligned"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("codeformer-jax: error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out in ("", f"{DESCRIPTION}\n")
    assert not (tmp_path / "out").exists()
    assert {path: path.read_bytes() for path in faces.iterdir()} == before


@pytest.mark.usefixtures("faces", "embedded_network")
def test_interrupt_is_quiet(monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Restorer, "restore_batch", interrupted)
    assert cli.main(["restore", "faces", "--aligned", "-o", "out"]) == 130
    assert "Traceback" not in capsys.readouterr().err
