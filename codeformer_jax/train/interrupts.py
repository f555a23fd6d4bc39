"""SIGTERM and Ctrl-C: a flag that is looked at between steps, and while a program is compiled."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax

from codeformer_jax import process

# Seconds between two looks at the flag.
PATIENCE = 0.1


class Interrupted(Exception):
    """A signal has come before the result; nothing is known of it."""


@contextlib.contextmanager
def interrupt_flag() -> Iterator[Callable[[], int]]:
    """A flag, the signal's number, that SIGTERM or Ctrl-C raises: the loop saves before it ends.

    A second Ctrl-C ends at once. Outside the main thread signals are left alone.
    """
    raised = []
    previous = {}

    def handle(number, _frame):
        if raised and number == signal.SIGINT:
            raise KeyboardInterrupt
        raised.append(number)

    with contextlib.suppress(ValueError):
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, handle)
    try:
        yield lambda: raised[0] if raised else 0
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def unless_interrupted(interrupted: Callable[[], int], make: Callable[[], Any]) -> Any:
    """What `make` returns, computed in a thread of its own, for as long as no signal comes.

    Compiling a step takes up to minutes, in which Python sees no signal; the job's manager kills
    sooner. A thread that still compiles cannot be stopped: commands end without it
    (`process.ending`), other programs wait for it when they exit. Of several processes all wait,
    since they agree between steps only. JAX's settings by `with` do not reach the thread.

    Raises:
        Interrupted: once the flag is raised, if `make` has not ended by then.
    """
    if jax.process_count() > 1:
        return make()
    outcome: list[tuple[Any, BaseException | None]] = []
    ended = threading.Event()

    def run():
        try:
            outcome.append((make(), None))
        except BaseException as error:
            outcome.append((None, error))
        ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    while not ended.wait(PATIENCE):
        if interrupted():
            thread.name = process.LEFT_BEHIND
            raise Interrupted
    ((value, error),) = outcome
    if error is not None:
        raise error
    return value
