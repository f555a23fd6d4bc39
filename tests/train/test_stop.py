"""Runs that a signal ends."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from signalled import signalled
from states import assert_equal, state_at
from tiny import tiny_config

from codeformer_jax.checkpoints.workdir import saved_steps
from codeformer_jax.train import loop
from codeformer_jax.train.heldout import Heldout
from codeformer_jax.train.run import Run

ROOT = pathlib.Path(__file__).resolve().parents[2]


def on_call(monkeypatch, place, name, number, call=1):
    """Sends the signal at the given call of a method."""
    original, calls = getattr(place, name), []

    def signalled(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return original(*arguments)

    monkeypatch.setattr(place, name, signalled)


def trained_steps(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [entry["step"] for entry in map(json.loads, lines) if "train/loss" in entry]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_between_steps_saves_and_the_run_resumes(stages, tmp_path, monkeypatch, number):
    """SIGINT raises KeyboardInterrupt after the save. The resumed run ends bit for bit."""
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        on_call(patch, Run, "log", number, call=3)
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                loop.train(tiny_config("vqgan"), workdir)
        else:
            loop.train(tiny_config("vqgan"), workdir)
    assert saved_steps(workdir)[-1] == 3
    if number == signal.SIGTERM:
        loop.train(tiny_config("vqgan"), workdir)
        assert trained_steps(workdir) == [1, 2, 3, 4]
        assert_equal(state_at(workdir, 4), state_at(stages[0] / "vqgan", 4))


def test_an_evaluation_under_way_is_finished(tmp_path, monkeypatch):
    on_call(monkeypatch, Heldout, "evaluate", signal.SIGTERM, call=2)
    scores = loop.train(tiny_config("vqgan"), tmp_path / "run")
    assert saved_steps(tmp_path / "run")[-1] == 2
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    evaluated = [
        line for line in map(json.loads, lines) if line["step"] == 2 and "eval/psnr" in line
    ]
    assert [line["eval/psnr"] for line in evaluated] == [scores["psnr"]]


def test_an_evaluation_that_is_due_is_skipped_and_its_scores_added_on_resuming(
    tmp_path, monkeypatch
):
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        on_call(patch, Run, "log", signal.SIGTERM, call=4)
        loop.train(tiny_config("vqgan"), workdir)
    assert saved_steps(workdir)[-1] == 4
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert not any(json.loads(x)["step"] == 4 and "eval/psnr" in x for x in lines)
    scores = loop.train(tiny_config("vqgan"), workdir)
    saved = workdir / "checkpoints" / "4" / "metrics" / "metrics"
    assert json.loads(saved.read_text())["psnr"] == scores["psnr"]


# Sets a flag when it reads what it starts from, and again after its first step.
FLAGGED = """
import pathlib, signal, time
from tiny import tiny_config
from codeformer_jax.train import run

def get_config():
    # It is ignored where the tests run in the background of a shell.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log, prepare = run.Run.log, run.prepare

    def flagged_log(self, *arguments):
        log(self, *arguments)
        pathlib.Path({flag!r} + "-step").touch()

    def flagged_prepare(*arguments):
        pathlib.Path({flag!r} + "-start").touch()
        time.sleep({wait})
        return prepare(*arguments)

    run.Run.log, run.prepare = flagged_log, flagged_prepare
    config = tiny_config("vqgan").unlock()
    config.steps = config.eval_every = config.checkpoint_every = 100_000
    config.loss.gan_start = 10**6
    return config.lock()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "number", "code"),
    [
        ("start", signal.SIGTERM, -signal.SIGTERM),
        ("start", signal.SIGINT, 130),
        ("step", signal.SIGTERM, 0),
        ("step", signal.SIGINT, 130),
        ("step", signal.SIGUSR1, 0),
    ],
)
def test_train_ends_with_its_exit_code(tmp_path, moment, number, code):
    flag, file, workdir = tmp_path / "flag", tmp_path / "config.py", tmp_path / "run"
    file.write_text(FLAGGED.format(flag=str(flag), wait=5 if moment == "start" else 0))
    child = subprocess.Popen(
        [sys.executable, ROOT / "train.py", f"--config={file}", f"--workdir={workdir}"],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    ready = pathlib.Path(f"{flag}-{moment}").exists
    output = signalled(child, ready, number, code, within=60)
    assert "Traceback" not in output
    assert bool(saved_steps(workdir)) == (moment == "step")
    assert ("interrupted and saved; the same command resumes" in output) == (moment == "step")
