"""Processes that die, hang, fail, differ or never start: the others end and name them."""

import json
import math
import os
import subprocess
import sys
import threading
import time

import jax
import pytest
from jax._src import distributed
from launching import ROOT, finish, launch

from codeformer_jax.checkpoints.workdir import saved_steps
from codeformer_jax.system import connect, hosts, peers
from codeformer_jax.train.goodput import describe

SILENT = "process 1 has been silent for 8 s; last seen in"
FAILED = "process 1 failed in 'reading of batch 2': OSError: the disk of this process is gone"
CASES = {
    "killed": ("SIGKILL", 1, 4, SILENT),
    "hanging": ("SIGSTOP", 1, 2, SILENT),
    "failing": ("data", 1, 4, FAILED),
    "another config": ("config", 1, 2, "processes [1] differ from process 0 in: config."),
    "never started": ("missing", 1, 2, "Some timed out task names:\n1\n"),
    "never reading": ("reading", 1, 2, "process 1 has not arrived: it is in 'reading of batch 2'"),
    "first killed": ("SIGKILL", 0, 2, "the leader task was preempted/died"),
    "first hanging": ("SIGSTOP", 0, 2, "process 0, through which all others talk, has not answere"),
    "first never started": ("missing", 0, 2, "Process 0 does not answer at 127.0.0.1:"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_survivors_end_with_a_line_that_names_the_culprit(case, tmp_path):
    fault, culprit, count, words = CASES[case]
    flag = tmp_path / "flag"
    numbers = [i for i in range(count) if fault != "missing" or i != culprit]
    worker = ("tests/system/faulty.py", fault, str(culprit), str(flag), "{0}", str(count), "{1}")
    processes = launch(*worker, numbers=numbers, devices=1)
    try:
        for number, process in zip(numbers, processes, strict=True):
            if number != culprit:
                output = process.communicate(timeout=100)[0]
                assert process.returncode not in (0, None), output
                assert words in output
                assert "most recent call first" in output or fault == "config"
        if flag.exists():
            assert time.time() - flag.stat().st_mtime < 60
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.mark.slow
def test_a_process_that_ends_later_than_the_others_is_waited_for(tmp_path):
    worker = ("tests/system/faulty.py", "late", "1", str(tmp_path / "flag"), "{0}", "2", "{1}")
    for output in finish(launch(*worker, devices=1)):
        assert "all steps done" in output
        assert "error" not in output


KILLED = """
import os, signal, time
from tiny import tiny_vqvae
from codeformer_jax.checkpoints.workdir import saved_steps
from codeformer_jax.train import goodput
from codeformer_jax.train.run import Run

def get_config(process):
    if process == "1":
        take = Run._next
        def killed(self, step):
            if step == 3:
                while saved_steps(self.workdir)[-1] < 2:  # Saved in the background.
                    time.sleep(0.1)
                os.kill(os.getpid(), signal.SIGKILL)
            return take(self, step)
        Run._next = killed
    goodput.WRITE_EVERY = 0.0
    config = tiny_vqvae(4).unlock()
    config.mesh = "data:-1"
    return config.lock()
"""


@pytest.mark.slow
def test_a_run_of_two_of_which_one_is_killed_resumes(tmp_path):
    config, workdir = tmp_path / "config.py", tmp_path / "run"
    config.write_text(KILLED)
    flags = (f"--workdir={workdir}", "--peer-timeout=12", "--coordinator={0}", "--processes=2")
    first, second = launch(
        "train.py", f"--config={config}:{{1}}", *flags, "--process={1}", devices=1
    )
    output = first.communicate(timeout=200)[0]
    second.communicate()
    assert first.returncode == 1, output
    assert "process 1 has been silent for 12 s" in output
    assert saved_steps(workdir)[-1] == 2
    outputs = finish(
        launch("train.py", f"--config={config}:none", *flags, "--process={1}", devices=1)
    )
    assert saved_steps(workdir)[-1] == 4
    starts = [json.loads(line) for line in (workdir / "goodput.jsonl").read_text().splitlines()]
    lines = [(start["from_step"], start["step"], start["finished"]) for start in starts]
    assert lines == [(0, starts[0]["step"], False), (2, 4, True)]
    assert starts[0]["step"] >= 2
    assert describe(starts) in outputs[0]
    assert "in 2 starts" in outputs[0]
    assert "down" in outputs[0]
    assert "goodput" not in outputs[1]


@pytest.mark.slow
def test_the_watchdog_ends_a_single_process_with_its_stacks():
    code = (
        "import time\n"
        "from codeformer_jax.system import hosts\n"
        "def hang():\n"
        "    time.sleep(100)\n"
        "with hosts.limited(2.0):\n"
        "    hosts.at('step 7')\n"
        "    hang()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    output = process.communicate(timeout=90)[1]
    assert process.returncode == 1
    assert "process 0 of 1 stops after" in output
    assert "in 'step 7': the limit of 2 s is over (train.watchdog)" in output
    assert "in hang" in output


def test_a_single_process_has_a_thread_only_with_a_watchdog():
    def watches():
        return [thread for thread in threading.enumerate() if thread.name == "watch"]

    with hosts.limited(0.0), hosts.together():
        hosts.at("step 0")
        assert watches() == []
    with hosts.limited(1000.0):
        assert len(watches()) == 1
    assert watches() == []


def test_an_error_of_a_single_process_is_raised_at_once():
    with pytest.raises(ValueError, match="UNKNOWN: Gloo"), hosts.together():
        raise ValueError("UNKNOWN: Gloo all-reduce failed")


def test_a_peer_is_named_within_a_minute():
    """The slowest case: process 0 judges an error of a collective that no peer has caused."""
    waits = peers._TICKS + peers._GRACE
    published, judged, lingers = 2, peers._GRACE + 1, peers._GRACE
    assert (waits + published + judged + lingers) * peers.SILENCE / peers._TICKS < 60
    assert f'"peer-timeout", {peers.SILENCE}' in (ROOT / "train.py").read_text()


@pytest.fixture
def watch():
    """A watch of process 2 of 3 whose ticks and answers come from the test."""
    watch = peers.Watch(silence=1e6, index=2, count=3)
    yield watch
    watch._closed.set()


def test_a_freeze_of_process_0_blames_no_other_peer(watch):
    answer = {0: [1, 4, "step 1", ""], 1: [1, 4, "step 1", ""]}
    watch._take(answer)
    for _ in range(peers._TICKS + 1):
        watch._count_tick()
    assert watch._culprit().startswith("process 0, through which all others talk, has not")
    watch._take(answer)
    assert watch._culprit() == ""
    for beat in range(peers._TICKS):
        watch._take({0: [beat, 5, "step 2", ""], 1: answer[1]})
    assert watch._culprit().startswith("process 1 has been silent for")


def test_only_a_training_and_the_end_have_a_limit(monkeypatch, watch):
    monkeypatch.setattr(hosts, "_watches", [watch])
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: limits.append(watch.limit))
    limits = [watch.limit]
    with hosts.together(), hosts.limited(0.0):
        limits.append(watch.limit)
    monkeypatch.setattr(hosts, "_watches", [watch])
    with pytest.raises(KeyboardInterrupt), hosts.together():
        raise KeyboardInterrupt
    assert limits == [math.inf, hosts.LIMIT, hosts.LIMIT, 60.0]


def test_a_jax_without_the_private_name_starts_all_the_same(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **k: calls.append(k))
    monkeypatch.delattr(distributed, "_jax")
    connect.connect(100.0)
    assert len(calls) == 1
