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
from tiny import tiny_vqvae

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


def entries(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_an_evaluation_is_finished_and_the_resumed_run_ends_bit_for_bit(tmp_path, monkeypatch):
    workdir, whole = tmp_path / "run", tmp_path / "whole"
    loop.train(tiny_vqvae(), whole)
    with monkeypatch.context() as patch:
        on_call(patch, Heldout, "evaluate", signal.SIGTERM, call=2)
        with pytest.raises(SystemExit) as ended:
            loop.train(tiny_vqvae(), workdir)
    assert ended.value.code == 143
    (at_two,) = (x for x in entries(workdir) if x["step"] == 2 and "eval/psnr" in x)
    saved = workdir / "checkpoints" / "2" / "metrics" / "metrics"
    assert json.loads(saved.read_text())["psnr"] == at_two["eval/psnr"]
    assert saved_steps(workdir)[-1] == 3
    loop.train(tiny_vqvae(), workdir)
    assert [x["step"] for x in entries(workdir) if "train/loss" in x] == [1, 2, 3, 4]
    assert_equal(state_at(workdir, 4), state_at(whole, 4))


def test_ctrl_c_skips_an_evaluation_that_is_due_and_resuming_adds_its_scores(tmp_path, monkeypatch):
    workdir, config = tmp_path / "run", tiny_vqvae(2)
    with monkeypatch.context() as patch:
        on_call(patch, Run, "log", signal.SIGINT, call=2)
        with pytest.raises(KeyboardInterrupt):
            loop.train(config, workdir)
    assert saved_steps(workdir)[-1] == 2
    assert not any(x["step"] == 2 and "eval/psnr" in x for x in entries(workdir))
    scores = loop.train(config, workdir)
    saved = workdir / "checkpoints" / "2" / "metrics" / "metrics"
    assert json.loads(saved.read_text())["psnr"] == scores["psnr"]


# Sets a flag when it reads what it starts from, and again after its first step.
FLAGGED = """
import pathlib, signal, time
from tiny import tiny_vqvae
from codeformer_jax.train import run

def get_config():
    # It is ignored where the tests run in the background of a shell.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    log, prepare = run.Run.log, run.prepare

    def flagged_log(self, *arguments):
        log(self, *arguments)
        pathlib.Path({flag!r} + "-step").touch()

    def flagged_prepare(*arguments):
        pathlib.Path({flag!r} + "-start").touch()
        time.sleep({wait})
        return prepare(*arguments)

    run.Run.log, run.prepare = flagged_log, flagged_prepare
    config = tiny_vqvae().unlock()
    config.steps = config.eval_every = config.checkpoint_every = 100_000
    return config.lock()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "number", "code"),
    [
        ("start", signal.SIGTERM, -signal.SIGTERM),
        ("start", signal.SIGINT, -signal.SIGINT),
        ("step", signal.SIGTERM, 143),
        ("step", signal.SIGINT, 130),
        ("step", signal.SIGUSR1, 138),
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
