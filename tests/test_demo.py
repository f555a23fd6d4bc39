"""Promises of the demo, its pictures and its commands."""

import json

import numpy as np
import pytest
from tiny import tiny_config

from codeformer_jax import demo
from codeformer_jax.checkpoints.workdir import CONFIG_FILE
from codeformer_jax.data.images import read_image, write_image
from codeformer_jax.data.sources import open_heldout
from codeformer_jax.faces.detect import DETECTORS

NAMES = ("clean", "degraded")


def good_metrics():
    return {
        "settings": {"images": 64},
        "means": {
            "input": {"psnr": 20.0, "ssim": 0.5},
            "w=0": {"psnr": 21.0, "ssim": 0.5},
            "w=1": {"psnr": 22.0, "ssim": 0.6},
        },
        "codes": {
            "accuracy": 0.3,
            "commonest_accuracy": 0.1,
            "usage": {"teacher": {"perplexity": 5.0}},
            "counts": {"teacher": [1] * 16},
        },
    }


# What is changed in the metrics, and the promise that it breaks.
BROKEN = [
    (("means", "input", "psnr"), 21.1, "PSNR over the input"),
    (("means", "input", "ssim"), 0.56, "SSIM over the input"),
    (("means", "w=0", "psnr"), 22.1, "PSNR at w = 1 over w = 0"),
    (("codes", "accuracy"), 0.19, "code accuracy"),
    (("codes", "commonest_accuracy"), 0.16, "code accuracy"),
    (("codes", "usage", "teacher", "perplexity"), 3.9, "perplexity of the teacher's 16 codes"),
    (("codes", "counts", "teacher"), [1] * 24, "perplexity of the teacher's 24 codes"),
]


def test_all_promises_hold(capsys):
    assert demo.check(good_metrics()) is True
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "64 held-out faces, input at 20.00 dB:"
    assert len(lines) == 5
    assert all(line.endswith(": holds") for line in lines)


@pytest.mark.parametrize(("where", "value", "promise"), BROKEN)
def test_one_broken_promise_is_enough(where, value, promise, capsys):
    metrics = part = good_metrics()
    for name in where[:-1]:
        part = part[name]
    part[where[-1]] = value
    assert demo.check(metrics) is False
    (missed,) = [x for x in capsys.readouterr().out.splitlines() if x.endswith(": MISSED")]
    assert missed.strip().startswith(promise)


def test_of_a_users_images_nothing_is_judged(capsys):
    metrics = good_metrics()
    metrics["codes"]["accuracy"] = 0.0
    assert demo.check(metrics, own_data=True) is True
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "64 held-out images, input at 20.00 dB:"
    assert len(lines) == 5
    assert not any("at least" in line for line in lines)


def test_degraded_faces_are_pictures_of_the_heldout_ones(tmp_path):
    config = tiny_config("restoration")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / CONFIG_FILE).write_text(config.to_json())
    demo.write_degraded(tmp_path / "degraded", tmp_path / "run")
    files = sorted((tmp_path / "degraded").iterdir())
    assert len(files) == config.data.heldout_length
    assert {path.suffix for path in files} == {".png"}
    pictures = np.stack([read_image(path).pixels for path in files])
    assert (pictures.dtype, pictures.shape[1:]) == (np.uint8, (32, 32, 3))
    source = open_heldout(config)
    for path, picture in zip(files, pictures, strict=True):
        error = np.abs(picture.astype(float) - source[int(path.stem)]["image"]).mean()
        assert 1 < error < 60


def test_the_photograph_of_the_report(tmp_path):
    demo.write_photograph(tmp_path / "photograph")
    pictures = {name: read_image(tmp_path / "photograph" / f"{name}.png").pixels for name in NAMES}
    assert {picture.shape for picture in pictures.values()} == {(*demo.GROUP_SIZE, 3)}
    faces = DETECTORS["yunet"](None, None)(pictures["degraded"])
    assert len(faces) == 5
    for name in ("degraded_faces", "degraded_restored"):
        write_image(tmp_path / "photograph" / f"{name}.png", pictures["clean"])
    (tmp_path / "report.html").write_text("<body><!-- photographs --></body>")
    demo.report_photograph(tmp_path)
    assert (tmp_path / "report.html").read_text().count("data:image/png;base64,") == 4
    assert read_image(tmp_path / "photograph.jpg").pixels.shape == (480, 800, 3)


@pytest.fixture
def commands(monkeypatch):
    """Commands that the demo runs, as lists; none is really run. `codes` are their exit codes."""
    started, codes = [], {}

    class Process:
        def __init__(self, arguments, **options):
            started.append([str(argument) for argument in arguments[1:]])

        def wait(self):
            return codes.get(len(started), 0)

    monkeypatch.setattr(demo.subprocess, "Popen", Process)
    monkeypatch.setattr(demo, "write_degraded", lambda folder, workdir: None)
    monkeypatch.setattr(demo, "write_photograph", lambda folder: None)
    monkeypatch.setattr(demo, "report_photograph", lambda directory: None)
    return started, codes


@pytest.mark.parametrize("failing", [1, 2, 4, 5, 7])
def test_the_demo_stops_at_the_first_command_that_fails(failing, commands, tmp_path, capsys):
    started, codes = commands
    codes[failing] = 3
    assert demo.run(tmp_path, short=True) == 1
    assert len(started) == failing
    printed = capsys.readouterr()
    assert printed.err == "error: this command ended with exit code 3\n"
    assert "The demo took" not in printed.out


def test_the_demo_runs_the_stages_in_a_row(commands, tmp_path):
    started, _ = commands
    (tmp_path / "metrics.json").write_text(json.dumps(good_metrics()))
    assert demo.run(tmp_path, data=tmp_path / "faces") == 0
    *stages, evaluation, restore, photograph, preview = started
    workdirs = [f"{tmp_path}/1_vqgan", f"{tmp_path}/2_code_prediction", f"{tmp_path}/3_restoration"]
    for i, command in enumerate(stages):
        assert command[:2] == ["train.py", f"--config=configs/demo.py:{demo.STAGES[i]},full"]
        assert f"--workdir={workdirs[i]}" in command
        assert [x for x in command if "init_from" in x] == [
            f"--config.init_from={workdir}" for workdir in workdirs[:i][-1:]
        ]
    assert {f"--workdir={workdirs[2]}", f"--output={tmp_path}"} <= set(evaluation)
    for command in stages:
        assert f"--config.data.path={tmp_path}/faces" in command
    floors = [[x for x in command if "teacher_min_psnr" in x] for command in stages]
    assert floors == [[], *[["--config.teacher_min_psnr=5.0"]] * 2]
    assert restore[:3] == ["-m", "codeformer_jax.cli", "restore"]
    assert workdirs[2] in restore
    assert workdirs[2] in photograph
    assert "--aligned" in restore
    assert f"{tmp_path}/photograph/degraded.png" in photograph
    assert preview[-1] == "--dry-run"
    assert not [option for option in restore if "adain" in option]  # As in the table.
    assert "--force" in evaluation  # A second run of the demo replaces its own report.


@pytest.mark.parametrize(
    ("short", "data", "code", "missed"),
    [(False, None, 1, 1), (True, None, 0, 1), (False, "faces", 0, 0)],
)
def test_only_the_full_demo_of_the_synthetic_faces_asks_for_its_scores(
    short, data, code, missed, commands, tmp_path, capsys
):
    metrics = good_metrics()
    metrics["codes"]["accuracy"] = 0.0
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert demo.run(tmp_path, short=short, data=data) == code
    assert any("teacher_min_psnr" in x for command in commands[0] for x in command) == bool(data)
    assert capsys.readouterr().out.count("MISSED") == missed


def test_a_folder_holds_one_kind_of_demo(commands, tmp_path):
    started, _ = commands
    (tmp_path / "metrics.json").write_text(json.dumps(good_metrics()))
    assert demo.run(tmp_path) == 0
    again = len(started)
    assert demo.run(tmp_path) == 0
    assert len(started) == 2 * again
    for other in ({"short": True}, {"data": tmp_path / "faces"}):
        with pytest.raises(ValueError, match="holds a demo with another size or other images"):
            demo.run(tmp_path, **other)
    assert len(started) == 2 * again


def test_the_demo_needs_a_clone(commands, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="the demo runs from a clone of the repository"):
        demo.run(tmp_path / "demo")
    assert commands[0] == []
    assert not (tmp_path / "demo").exists()
