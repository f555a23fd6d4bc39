"""The flag that signals raise."""

import os
import pathlib
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest

from codeformer_jax.system import signals
from codeformer_jax.system.signals import StopSignal

ROOT = pathlib.Path(__file__).resolve().parents[2]
WAIT = 60

# Prints after its terminal has closed.
PRINTING = """
import fcntl, pathlib, signal, sys, termios, time
from codeformer_jax.system import signals
from codeformer_jax.system.signals import StopSignal
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # The tests may run under nohup.
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
with StopSignal() as stop:
    stop.listen()
    pathlib.Path({flag!r}).touch()
    while not stop.number:
        time.sleep(0.01)
    print("a line", flush=True)
    print("a progress bar", file=sys.stderr, flush=True)
pathlib.Path({flag!r}).write_text(str(stop.number))
"""


def test_output_to_a_closed_terminal_does_not_fail(tmp_path):
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
def test_ignored_signals_stay_ignored(number):
    before = signal.getsignal(number)
    try:
        for handler, raised in ((signal.SIG_IGN, 0), (signal.SIG_DFL, number)):
            signal.signal(number, handler)
            with StopSignal() as stop:
                stop.listen()
                os.kill(os.getpid(), number)
                assert stop.number == raised
            assert signal.getsignal(number) == handler
    finally:
        signal.signal(number, before)


def test_the_first_signal_counts_and_a_second_ctrl_c_raises():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert signal.getsignal(signal.SIGTERM) == before
        stop.listen()
        stop.listen()
        for number in (signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_threads_handle_no_signals():
    def listen():
        with StopSignal() as stop:
            stop.listen()
            found.append(signal.getsignal(signal.SIGTERM))

    found = []
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


def test_an_interrupt_ends_the_process_before_there_is_something_to_save():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        signals.end_at_interrupt()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # As in the background of a shell.
        signals.end_at_interrupt()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
