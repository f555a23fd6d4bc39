"""Signals that end a run after it has saved its state."""

import contextlib
import os
import select
import signal
import threading
from types import FrameType
from typing import Any

# Ctrl-C, a job manager's end, a closed terminal, SLURM's usual warning.
_ALWAYS = (signal.SIGINT, signal.SIGTERM)
_UNLESS_IGNORED = (signal.SIGHUP, signal.SIGUSR1)


def end_at_interrupt() -> None:
    """Lets Ctrl-C end the process at once, as a shell expects, until something is there to save.

    Python's own handler raises KeyboardInterrupt, which callbacks from C++ lose. Where SIGINT is
    ignored, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


class StopSignal:
    """A flag that the first of SIGINT, SIGTERM, SIGHUP and SIGUSR1 raises.

    The signals keep their previous action until `listen` is called, and get it back on exit.
    A second Ctrl-C raises KeyboardInterrupt.

    Attributes:
        number: the number of the first signal; 0 before one arrives.
    """

    def __init__(self):
        self.number = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        return self

    def __exit__(self, *_: object) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())

    def listen(self) -> None:
        """Raises the flag at the next signal instead of ending the process; a second call is idle.

        SIGHUP and SIGUSR1 stay ignored where they are, as SIGHUP under nohup. Outside the main
        thread Python handles no signals and nothing changes.
        """
        if self._previous or threading.current_thread() is not threading.main_thread():
            return
        heard = (n for n in _UNLESS_IGNORED if signal.getsignal(n) != signal.SIG_IGN)
        for number in (*_ALWAYS, *heard):
            self._previous[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        if number == signal.SIGHUP:
            _drop_closed_output()
        if not self.number:
            # `print` may be under way; the system's call may not be broken by that.
            name = signal.Signals(number).name
            with contextlib.suppress(OSError):
                os.write(2, f"\n{name}: the run will save and end after this step\n".encode())
        self.number = self.number or number


def _drop_closed_output() -> None:
    """Sends standard output and error to /dev/null where their terminal or pipe is closed.

    A progress bar would otherwise fail before the state is saved.
    """
    for number in (1, 2):
        try:
            poll = select.poll()
            poll.register(number, 0)
            if poll.poll(0):  # An empty mask reports only errors and hang-ups.
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, number)
                os.close(null)
        except OSError:  # The descriptor is not open.
            continue
