"""Signals while something is computed that Python cannot stop."""

import json
import os
import pathlib
import pty
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import jax
import pytest
from signalled import signalled
from states import assert_equal, state_at
from tiny import stage_config, tiny_config

from codeformer_jax.checkpoints.workdir import saved_steps
from codeformer_jax.system import hosts, process
from codeformer_jax.tasks.vqgan import VQGANTask
from codeformer_jax.train import loop
from codeformer_jax.train.heldout import Heldout
from codeformer_jax.train.interrupts import Interrupted, interrupt_flag, unless_interrupted
from codeformer_jax.train.speed import Ahead

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Seconds after which what is never to be waited for ends all the same.
WAIT = 60


def test_results_and_errors_come_through():
    assert unless_interrupted(lambda: 0, lambda: "made") == "made"
    with pytest.raises(ValueError, match="of the compiler"):
        unless_interrupted(lambda: 0, lambda: (_ for _ in ()).throw(ValueError("of the compiler")))


def test_an_evaluation_is_left_and_its_scores_come_when_the_run_goes_on(tmp_path, monkeypatch):
    config = config_of_two_programs()
    forever, original = threading.Event(), VQGANTask.eval_step

    def last(self, state, frozen, images, keys):
        found = original(self, state, frozen, images, keys)

        def wait(step):
            if step == 4:
                os.kill(os.getpid(), signal.SIGTERM)
                forever.wait(WAIT)
            return step

        waited = jax.pure_callback(wait, jax.ShapeDtypeStruct((), "int32"), state.step)
        metrics = {name: x + 0 * waited.astype(x.dtype) for name, x in found.metrics.items()}
        return found.replace(metrics=metrics)

    with monkeypatch.context() as patch:
        patch.setattr(VQGANTask, "eval_step", last)
        try:
            loop.train(config, tmp_path / "run")
        finally:
            forever.set()
    saved = tmp_path / "run" / "checkpoints" / "4" / "metrics" / "metrics"
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert saved_steps(tmp_path / "run") == [0, 4]
    assert not any(json.loads(x)["step"] == 4 and "eval/psnr" in x for x in lines)
    scores = loop.train(config, tmp_path / "run")
    assert json.loads(saved.read_text())["psnr"] == scores["psnr"]


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (loop, "open_source"),
        (loop, "prepare"),
        (loop, "read_newest"),
        (Ahead, "compile"),
        (Heldout, "check_teacher"),
    ],
)
def test_what_comes_before_the_first_step_is_left(tmp_path, monkeypatch, caplog, place, name):
    """A fresh workdir is not made, one to go on in is not changed, not even by what was left."""
    config, workdir = config_of_two_programs(), tmp_path / "run"
    said = "the run has none"
    if name == "read_newest":
        loop.train(config, workdir)
        array = max((workdir / "checkpoints" / "4").rglob("*"), key=lambda p: p.stat().st_size)
        array.write_bytes(bytes(array.stat().st_size))
        said = "the run has its newest checkpoint at step 4"
    before = contents(workdir)
    go_on, original = threading.Event(), getattr(place, name)

    def signalled(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        go_on.wait(WAIT)
        return original(*arguments)

    monkeypatch.setattr(place, name, signalled)
    try:
        assert loop.train(config, workdir) == {}
        assert process.left_behind()
    finally:
        go_on.set()
    wait_for_those_left()
    assert contents(workdir) == before
    assert said in caplog.text


def wait_for_those_left():
    deadline = time.monotonic() + WAIT
    while process.left_behind() and time.monotonic() < deadline:
        time.sleep(0.1)


def test_the_first_state_and_the_teachers_check_look_at_the_flag(stages, tmp_path):
    """By themselves, as they do where several processes begin."""
    config = stage_config("code_prediction", str(stages[0] / "vqgan"))
    raised = lambda: signal.SIGTERM  # noqa: E731
    with pytest.raises(Interrupted):
        loop._Run(config, tmp_path / "run").init(raised)
    run = loop._Run(config, tmp_path / "run")
    state = run.init(lambda: 0)
    with pytest.raises(Interrupted):
        run.heldout.check_teacher(state, run.frozen, raised)
    run.heldout.check_teacher(state, run.frozen, lambda: 0)
    wait_for_those_left()


def contents(folder):
    return {p: p.is_file() and p.read_bytes() for p in folder.rglob("*")} if folder.is_dir() else 0


@pytest.fixture
def forever():
    """A wait that ends with the test, at the latest."""
    event = threading.Event()
    yield partial(event.wait, WAIT)
    event.set()


def test_a_result_is_not_waited_for_once_a_signal_has_come(forever):
    with interrupt_flag() as interrupted:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(Interrupted):
            unless_interrupted(interrupted, forever)
        assert interrupted() == signal.SIGTERM


def test_nor_after_a_second_ctrl_c(forever):
    """The thread is one that commands do not wait for."""

    def raised():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unless_interrupted(raised, forever)
    assert process.left_behind()


def others(monkeypatch, *values):
    """What another process says, again and again: signal, at work, failed."""
    monkeypatch.setattr(hosts, "largest", lambda *own: list(map(max, own, values)))


def test_an_error_of_another_process_ends_all(monkeypatch, forever):
    """Also where this one has its result, or is at work, or a signal has come meanwhile."""
    others(monkeypatch, signal.SIGTERM, False, True)
    for make in (lambda: "made", forever):
        with pytest.raises(RuntimeError, match="another process has failed"):
            unless_interrupted(lambda: 0, make)


def test_an_error_comes_while_others_are_at_work(monkeypatch):
    others(monkeypatch, signal.SIGTERM, True, False)
    with pytest.raises(ValueError, match="of the compiler"):
        unless_interrupted(lambda: 0, lambda: (_ for _ in ()).throw(ValueError("of the compiler")))


def test_a_result_counts_when_all_have_one(monkeypatch):
    others(monkeypatch, signal.SIGTERM, True, False)
    with pytest.raises(Interrupted) as caught:
        unless_interrupted(lambda: 0, lambda: "made")
    assert caught.value.number == signal.SIGTERM
    others(monkeypatch, signal.SIGTERM, False, False)
    assert unless_interrupted(lambda: 0, lambda: "made") == "made"


def test_an_evaluation_of_short_batches_is_left_between_them(tmp_path, monkeypatch):
    batches, taken = Heldout.batches, []

    def signalled(images):
        for batch in batches(images):
            taken.append(int(batch["index"][0]))
            yield batch
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Heldout, "batches", signalled)
    config = config_of_two_programs().copy_and_resolve_references().unlock()
    config.eval.update(batch_size=2, batches=3)
    loop.train(config.lock(), tmp_path / "run")
    assert len(taken) == 2  # The second is read, and not measured.
    assert saved_steps(tmp_path / "run") == [0]
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def config_of_two_programs():
    """Four steps, the last two of another compiled program."""
    config = tiny_config("vqgan").unlock()
    config.loss.gan_start = 2
    config.eval_every = config.checkpoint_every = 4
    return config.lock()


# The loop is never imported.
IMPORTING = """
import pathlib, sys, time
from test_interrupts import config_of_two_programs

class Finder:
    def find_spec(self, name, *_):
        if name == "codeformer_jax.train.loop":
            pathlib.Path({flag!r}).touch()
            time.sleep({wait})

def get_config():
    for name in [name for name in sys.modules if name.startswith("codeformer_jax.train")]:
        del sys.modules[name]
    sys.meta_path.insert(0, Finder())
    return config_of_two_programs()
"""

# Nothing is ever read.
READING = """
import pathlib, threading
from codeformer_jax.train import loop
from test_interrupts import config_of_two_programs

def get_config():
    def forever(*_):
        pathlib.Path({flag!r}).touch()
        threading.Event().wait({wait})

    loop.prepare = forever
    return config_of_two_programs()
"""

# The second program's compilation does not end.
COMPILING = """
import pathlib, threading, jax
from codeformer_jax.train import speed
from test_interrupts import config_of_two_programs

def get_config():
    compile, programs = speed.TimedStep._compile, []

    def once(self, *arguments):
        programs.append(arguments)
        if len(programs) == 2:
            lowered = jax.jit(long).lower(1.0)
            pathlib.Path({flag!r}).touch()
            lowered.compile()
            threading.Event().wait({wait})
        return compile(self, *arguments)

    speed.TimedStep._compile = once
    return config_of_two_programs()

def long(x):
    import jax.numpy as jnp
    y = jnp.full((64, 64), x)
    for i in range(3000):
        y = jnp.sin(y @ y) + i
    return y
"""


STOPS = [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGUSR1, 0)]

# Prints once its terminal has gone.
PRINTING = """
import fcntl, pathlib, signal, sys, termios, time
from codeformer_jax.train.interrupts import interrupt_flag
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # The tests may run under nohup.
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
with interrupt_flag() as interrupted:
    pathlib.Path({flag!r}).touch()
    while not interrupted():
        time.sleep(0.01)
    print("a line", flush=True)
    print("a progress bar", file=sys.stderr, flush=True)
pathlib.Path({flag!r}).write_text(str(interrupted()))
"""


def test_a_closed_terminal_leaves_time_to_save(tmp_path):
    flag = tmp_path / "flag"
    terminal, line = pty.openpty()

    child = subprocess.Popen(
        [sys.executable, "-c", PRINTING.format(flag=str(flag))],
        **dict.fromkeys(("stdin", "stdout", "stderr"), line),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    os.close(line)
    try:
        deadline = time.monotonic() + WAIT
        while not flag.exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.close(terminal)
        assert child.wait(WAIT) == 0
    finally:
        child.kill()
    assert flag.read_text() == str(int(signal.SIGHUP))


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_signals_that_are_ignored_stay_ignored(number):
    before = signal.getsignal(number)
    try:
        for handler, raised in ((signal.SIG_IGN, 0), (signal.SIG_DFL, number)):
            signal.signal(number, handler)
            with interrupt_flag() as interrupted:
                os.kill(os.getpid(), number)
                assert interrupted() == raised
            assert signal.getsignal(number) == handler
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(("number", "code"), STOPS)
@pytest.mark.parametrize(
    ("config", "said"),
    [
        (IMPORTING, "interrupted before the run began"),
        (READING, "interrupted before there was a state to save; the run has none"),
    ],
)
def test_a_command_that_has_saved_nothing_ends_at_once(tmp_path, config, said, number, code):
    output = stopped(tmp_path, config, number, code)
    assert said in output
    assert "Traceback" not in output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("number", "code"), STOPS)
def test_a_signal_does_not_wait_for_the_compiler(tmp_path, number, code):
    """The steps before are saved, the exit code is as promised, and the run goes on from there."""
    workdir = tmp_path / "run"
    output = stopped(tmp_path, COMPILING, number, code)
    assert "interrupted and saved; the same command goes on from here" in output
    assert saved_steps(workdir) == [0, 2]
    if number == signal.SIGTERM:
        loop.train(config_of_two_programs(), workdir)
        loop.train(config_of_two_programs(), tmp_path / "whole")
        assert_equal(state_at(workdir, 4), state_at(tmp_path / "whole", 4))
        taken = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in taken if "train/loss" in line] == [1, 2, 3, 4]


def stopped(folder, config, number, code):
    """What train.py prints that gets a signal as soon as the config's flag is there."""
    flag, file = folder / "flag", folder / "config.py"
    file.write_text(config.format(flag=str(flag), wait=WAIT))
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests/train")))
    child = subprocess.Popen(
        [sys.executable, ROOT / "train.py", f"--config={file}", f"--workdir={folder / 'run'}"],
        env={**os.environ, "PYTHONPATH": paths, "JAX_ENABLE_COMPILATION_CACHE": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return signalled(child, flag.exists, number, code, within=30)
