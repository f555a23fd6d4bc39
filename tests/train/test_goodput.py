"""Seconds of a run by kind, over all its starts."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

import jax.numpy as jnp
import pytest
from states import assert_equal, state_at
from tiny import tiny_vqvae

from codeformer_jax.system.mirror import Mirror
from codeformer_jax.train import goodput, loop
from codeformer_jax.train.goodput import Clock, Goodput, add_up, describe
from codeformer_jax.train.run import Run

TESTS = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture
def now(monkeypatch):
    """Replaces the module's clock with a list of one time, which the test moves."""
    times = [1000.0]
    clock = types.SimpleNamespace(time=lambda: times[0], perf_counter=lambda: times[0])
    monkeypatch.setattr(goodput, "time", clock)
    return times


def start(started, from_step, step, finished=False, /, **seconds):
    """A line of goodput.jsonl."""
    seconds = {name.replace("_", " "): value for name, value in seconds.items()}
    head = {"started": started, "from_step": from_step, "step": step, "finished": finished}
    return head | {"seconds": seconds}


def read(workdir):
    return [json.loads(line) for line in (workdir / "goodput.jsonl").read_text().splitlines()]


def test_each_moment_counts_once_for_the_innermost_kind(now):
    clock = Clock()
    now[0] += 1
    assert clock.turn_to("step") == "start"
    now[0] += 2
    with clock.during("evaluation", jnp.zeros(())):
        now[0] += 3
        with contextlib.suppress(ValueError), clock.during("compile"):
            now[0] += 4
            raise ValueError
        now[0] += 5
    now[0] += 6
    clock.move("data wait", 1.5)
    found = {"start": 1, "step": 6.5, "evaluation": 8, "compile": 4, "data wait": 1.5}
    assert clock.read() == found
    assert sum(found.values()) == now[0] - clock.started


def test_steps_after_a_checkpoint_are_repeated_and_gaps_are_down():
    starts = [
        # Killed at step 50; the next start resumes from 40, the one after it from 20 (damage).
        start(100.0, 0, 50, start=10.0, step=100.0, data_wait=50.0, save=5.0),
        start(300.0, 40, 60, start=10.0, step=40.0),
        # Interrupted: it saved step 80.
        start(360.0, 20, 80, restore=2.0, step=60.0),
        start(450.0, 80, 100, True, step=20.0),
        # More steps, a day later.
        start(90_000.0, 100, 110, True, step=10.0),
    ]
    seconds, repeated = add_up(starts)
    assert repeated == 30 + 20
    assert seconds == {
        **{"start": 20.0, "save": 5.0, "restore": 2.0},
        **{"step": 40.0 + 60.0 + 20.0 + 10.0, "data wait": 20.0},
        **{"repeated steps": 60.0 + 30.0 + 40.0, "down": 35.0 + 10.0 + 28.0},
    }
    assert sum(seconds.values()) == pytest.approx((470.0 - 100.0) + 10.0)


def test_clocks_of_two_machines_may_differ():
    later = start(105.0, 5, 10, step=3.0)
    seconds, _ = add_up([start(100.0, 0, 5, step=9.0), later])
    assert seconds["down"] == 0


def test_the_line_names_what_is_worth_a_digit():
    starts = [
        start(0.0, 0, 40, step=6000.0, compile=1000.0, restore=0.4),
        start(7100.4, 30, 100, True, step=2900.0),
    ]
    assert describe(starts) == (
        "goodput 74.0% of 2:46:40 in 2 starts; the rest: repeated steps 15.0%, compile 10.0%, "
        "down 1.0%; 10 steps were repeated"
    )
    assert describe(starts[1:]) == "goodput 100.0% of 0:48:20 in 1 start"


def test_the_record_is_written_every_few_seconds(tmp_path, now, capsys):
    clock = Clock()
    now[0] += 1
    record = Goodput(clock, Mirror(tmp_path), 3, 8)
    clock.turn_to("step")
    assert read(tmp_path) == [start(1000.0, 3, 3, start=1.0)]
    now[0] += goodput.WRITE_EVERY - 1
    record.at(4)
    assert read(tmp_path)[0]["step"] == 3
    now[0] += 1
    record.at(5)
    assert read(tmp_path) == [start(1000.0, 3, 5, start=1.0, step=10.0)]
    now[0] += 9
    record.at(8)
    now[0] += 1
    record.at(8)  # The last evaluation and save come after it.
    assert read(tmp_path) == [start(1000.0, 3, 8, False, start=1.0, step=20.0)]
    now[0] += 4
    with record:
        pass
    assert read(tmp_path) == [start(1000.0, 3, 8, True, start=1.0, step=24.0)]
    assert capsys.readouterr().out.startswith("goodput 96.0% of 0:00:25 in 1 start")


@pytest.mark.parametrize("damage", [b'{"started": 12', b"\0\0\0\0", b"{}garbage\n"])
def test_a_damaged_last_line_is_dropped(tmp_path, damage, capsys):
    whole = start(100.0, 0, 5, step=10.0)
    path = tmp_path / "goodput.jsonl"
    path.write_bytes(json.dumps(whole).encode() + b"\n" + damage)
    with Goodput(Clock(), Mirror(tmp_path), 5, 8):
        pass
    first, second = read(tmp_path)
    assert (first, second["from_step"]) == (whole, 5)
    assert " in 2 starts" in capsys.readouterr().out


def test_only_the_first_process_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(goodput.hosts, "is_main", lambda: False)
    with Goodput(Clock(), Mirror(tmp_path), 0, 8) as record:
        record.at(8)
    assert not list(tmp_path.iterdir())
    assert not capsys.readouterr().out


def test_an_interrupted_run_repeats_nothing_and_an_old_workdir_resumes(
    tmp_path, monkeypatch, capsys
):
    workdir, began = tmp_path / "run", time.time()
    with monkeypatch.context() as patch:
        log = Run.log

        def signalled(self, step, *arguments):
            log(self, step, *arguments)
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(Run, "log", signalled)
        with pytest.raises(SystemExit, match="143"):
            loop.train(tiny_vqvae(), workdir)
    old = tmp_path / "old"
    shutil.copytree(workdir, old, ignore=shutil.ignore_patterns("goodput.jsonl"))
    capsys.readouterr()
    loop.train(tiny_vqvae(), workdir)
    wall, output = time.time() - began, capsys.readouterr().out
    seconds, repeated = add_up(read(workdir))
    assert repeated == 0
    assert seconds.get("repeated steps", 0) == 0
    assert sum(seconds.values()) == pytest.approx(wall, rel=0.05)
    kinds = ("start", "restore", "compile", "step", "evaluation", "save", "down")
    assert all(seconds[kind] > 0 for kind in kinds)
    lines = [(x["from_step"], x["step"], x["finished"]) for x in read(workdir)]
    assert lines == [(0, 3, False), (3, 4, True)]
    assert output.splitlines()[-1] == describe(read(workdir))

    loop.train(tiny_vqvae(), old)
    assert [(x["from_step"], x["step"]) for x in read(old)] == [(3, 4)]
    assert_equal(state_at(old, 4), state_at(workdir, 4))


# Writes its record at every step, and kills itself after a step.
CHILD = """
import os, signal, sys
sys.path[:0] = [{tests!r}, {root!r}]
from codeformer_jax.train import goodput, loop
from codeformer_jax.train.run import Run
from tiny import tiny_vqvae

goodput.WRITE_EVERY = 0.0
log = Run.log

def killed(self, step, *arguments):
    log(self, step, *arguments)
    if step == 5:
        self.checkpoints._manager.wait_until_finished()
        os.kill(os.getpid(), signal.SIGKILL)

Run.log = killed
config = tiny_vqvae(6).unlock()
config.checkpoint_every = 3
loop.train(config.lock(), sys.argv[1])
"""


@pytest.mark.slow
def test_a_killed_run_accounts_for_its_whole_time(tmp_path):
    workdir, script = tmp_path / "run", tmp_path / "child.py"
    script.write_text(CHILD.format(tests=str(TESTS), root=str(TESTS.parent)))
    command = [sys.executable, script, workdir]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (killed,) = read(workdir)
    assert (killed["from_step"], killed["step"], killed["finished"]) == (0, 5, False)
    loop.train(tiny_vqvae(6), workdir)
    ended = time.time()
    seconds, repeated = add_up(read(workdir))
    assert repeated == 2
    assert seconds["repeated steps"] == pytest.approx(
        0.4 * (killed["seconds"]["step"] + killed["seconds"]["data wait"])
    )
    assert sum(seconds.values()) == pytest.approx(ended - killed["started"], rel=0.05)
