"""Ends of commands: one-line errors, missing devices and Ctrl-C."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from absl import app

from codeformer_jax.system import process

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (ValueError("steps=-1"), "error: steps=-1"),
        (OSError("no such file"), "error: no such file"),
        (RuntimeError("Unable to initialize backend 'x'"), "error: "),
    ],
)
def test_errors_of_the_user_end_in_one_line(monkeypatch, error, code):
    def run(main, flags_parser):
        raise error

    monkeypatch.setattr(app, "run", run)
    with pytest.raises(SystemExit) as caught:
        process.run(print)
    found = caught.value.code
    assert found == code or found.startswith(str(code))


def test_bugs_keep_their_traceback(monkeypatch):
    def run(main, flags_parser):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(app, "run", run)
    with pytest.raises(RuntimeError, match="out of memory"):
        process.run(print)


FAILED = (
    "Unable to initialize backend 'x': not known (set JAX_PLATFORMS='' to automatically choose)"
)


@pytest.mark.parametrize(
    ("platforms", "error", "said"),
    [
        (
            "x",
            RuntimeError(FAILED),
            "JAX_PLATFORMS=x: JAX cannot compute on such a device here: Un",
        ),
        (
            "cuda",
            AssertionError(),
            "JAX_PLATFORMS=cuda: JAX cannot compute on such a device here. ",
        ),
        ("", RuntimeError(FAILED), "JAX cannot start on the devices of this machine: Unable to in"),
    ],
)
def test_a_platform_that_is_not_here_is_named(platforms, error, said, monkeypatch):
    def devices():
        raise AssertionError

    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(jax, "devices", devices)
    reason = process.no_devices(error)
    assert reason.startswith(said)
    assert "automatically choose" not in reason
    assert "JAX_PLATFORMS" in reason


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), AssertionError(), ValueError()])
def test_other_errors_are_not_taken_for_it(error):
    assert process.no_devices(error) is None


@pytest.mark.slow
def test_train_reports_a_missing_platform(tmp_path):
    command = [
        sys.executable,
        "train.py",
        "--config=configs/demo.py",
        f"--workdir={tmp_path / 'r'}",
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "abacus"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: JAX_PLATFORMS=abacus: JAX cannot compute on such a device here")
    assert not list(tmp_path.iterdir())
