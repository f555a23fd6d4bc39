"""Processes that die, hang, fail, differ or never start: the others end and name them."""

import json
import math
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest
from jax._src import distributed
from launching import ROOT, finish, launch

from codeformer_jax.checkpoints.workdir import saved_steps
from codeformer_jax.system import connect, hosts, peers
from codeformer_jax.train.goodput import describe

SILENT = "process 1 has been silent for"
FAILED = "process {} failed in 'reading of batch 2': OSError: the disk of this process is gone"
FROZEN = "process 0, through which all others talk, has not answered for"
CASES = {
    "killed": ("SIGKILL", 1, SILENT),
    "hanging": ("SIGSTOP", 1, SILENT),
    "failing": ("data", 1, FAILED.format(1)),
    "another config": ("config", 1, "processes [1] differ from process 0 in: config."),
    "never started": ("missing", 1, "Some timed out task names:\n1\n"),
    "never reading": ("reading", 1, "process 1 has not arrived: it is in 'reading of batch 2'"),
    "first killed": ("SIGKILL", 0, "the leader task was preempted/died"),
    "first hanging": ("SIGSTOP", 0, FROZEN),
    "first failing": ("data", 0, FAILED.format(0)),
    "first never started": ("missing", 0, "Process 0 does not answer at 127.0.0.1:"),
}
RAISED = ("data", "config", "collective")  # Faults after which the culprit ends by itself.
START_LIMIT = 15  # That of faulty.py.


@pytest.fixture
def start(tmp_path):
    """Starts `count` processes of which `culprit` has a fault; returns them by their number."""
    started = []

    def start(fault, culprit, count, silence=8.0):
        flag = tmp_path / f"{fault}-{culprit}-{count}"
        if fault == "missing":
            flag.touch()
        numbers = [i for i in range(count) if fault != "missing" or i != culprit]
        arguments = (fault, str(culprit), str(silence), str(flag), "{0}", str(count), "{1}")
        processes = launch("tests/system/faulty.py", *arguments, numbers=numbers, devices=1)
        started.extend(processes)
        return flag, dict(zip(numbers, processes, strict=True))

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def seconds_to_end(flag, processes, fault, culprit, words):
    """Checks how the processes end; returns the seconds from the fault to the last survivor."""
    ending = [i for i in processes if i != culprit or fault in RAISED]
    with ThreadPoolExecutor(len(ending)) as pool:
        found = list(
            pool.map(lambda i: (processes[i].communicate(timeout=150), time.time()), ending)
        )
    last = 0.0
    for i, ((output, _), ended) in zip(ending, found, strict=True):
        assert processes[i].returncode not in (0, None), output
        if i != culprit:
            last = max(last, ended)
            assert words in output
            assert "most recent call first" in output or fault == "config"
    return last - flag.stat().st_mtime


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_survivors_end_with_a_line_that_names_the_culprit(case, start):
    """With two processes and with four, both at the same time."""
    fault, culprit, words = CASES[case]
    limit = 60 + (START_LIMIT if fault == "missing" else 0)
    runs = [start(fault, culprit, count) for count in (2, 4)]
    for flag, processes in runs:
        assert seconds_to_end(flag, processes, fault, culprit, words) < limit


@pytest.mark.slow
def test_survivors_end_within_a_minute_with_the_default_limits(start):
    """All at the same time. The last is the slowest case: no peer has caused the error."""
    cases = {
        **{"SIGKILL": (1, SILENT), "SIGSTOP": (0, FROZEN)},
        "collective": (0, "process 0 failed in 'reading of batch 2': ValueError: UNKNOWN: Gloo"),
    }
    runs = {fault: start(fault, cases[fault][0], 2, peers.SILENCE) for fault in cases}
    with ThreadPoolExecutor(len(cases)) as pool:
        seconds = pool.map(lambda fault: seconds_to_end(*runs[fault], fault, *cases[fault]), cases)
        for fault, taken in zip(cases, seconds, strict=True):
            print(f"{fault}: {taken:.1f} s")
            assert peers.SILENCE * 0.8 < taken < 60


@pytest.mark.slow
def test_a_process_that_ends_later_than_the_others_is_waited_for(tmp_path):
    arguments = ("late", "1", "8", str(tmp_path / "flag"), "{0}", "2", "{1}")
    for output in finish(launch("tests/system/faulty.py", *arguments, devices=1)):
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
    assert "in 'step 7': the limit of 2 s has passed (train.watchdog)" in output
    assert "in hang" in output


UNREAD = """
import os, time
from codeformer_jax.system import hosts

if {full}:
    os.set_blocking(2, False)
    try:
        while os.write(2, bytes(4096)):
            pass
    except BlockingIOError:
        os.set_blocking(2, True)
with hosts.limited(1.0):
    hosts.at("step 7")
    time.sleep(100)
"""


@pytest.mark.slow
@pytest.mark.parametrize("full", [True, False])
def test_the_watchdog_ends_a_process_whose_output_nobody_reads(full):
    """Its standard error is a full pipe, or a pipe whose reader is gone."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    reader, writer = os.pipe()
    command = [sys.executable, "-c", UNREAD.format(full=full)]
    process = subprocess.Popen(command, env=environment, stderr=writer)
    os.close(writer)
    if not full:
        os.close(reader)
    try:
        assert process.wait(timeout=90) == 1
    finally:
        process.kill()
        process.wait()
        if full:
            os.close(reader)


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


def test_this_version_of_jax_has_the_private_names_that_several_processes_need():
    state, client = connect.state(), distributed._jax.DistributedRuntimeClient
    assert (state.client, state.process_id, state.num_processes) == (None, 0, 1)
    assert state.coordinator_address is None
    for method in ("key_value_set", "key_value_dir_get", "blocking_key_value_get"):
        assert callable(getattr(client, method))
    service = distributed._jax.get_distributed_runtime_service
    assert "cluster_register_timeout" in service.__doc__


@pytest.mark.parametrize("missing", ["global_state", "module"])
def test_a_jax_that_keeps_its_state_elsewhere_raises_before_the_start(monkeypatch, missing):
    if missing == "module":
        monkeypatch.setattr(connect, "distributed", None)
    else:
        monkeypatch.delattr(distributed, "global_state")
    with pytest.raises(RuntimeError, match=r"which several processes need; install the version"):
        hosts.initialize("127.0.0.1:1", 2, 0)


def test_a_jax_without_the_private_name_starts_all_the_same(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **k: calls.append(k))
    monkeypatch.delattr(distributed, "_jax")
    connect.connect(100.0)
    assert len(calls) == 1
