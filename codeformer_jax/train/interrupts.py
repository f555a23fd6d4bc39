"""Signals that end a run: a flag, looked at between steps and while something long is computed."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax

from codeformer_jax.system import hosts, process
from codeformer_jax.train.speed import Ahead

# Seconds between two looks at the flag.
PATIENCE = 0.1


class Interrupted(Exception):
    """A signal has come before the result, of which nothing is known.

    Attributes:
        number: of the signal, the same on all processes.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def interrupt_flag() -> Iterator[Callable[[], int]]:
    """Yields a flag, a signal's number once one has come: the loop saves before it ends.

    The signals are those of `process.ending_signals`. A second Ctrl-C ends at once. Outside the
    main thread signals are left alone.
    """
    raised = []
    previous = {}

    def handle(number, _frame):
        if raised and number == signal.SIGINT:
            raise KeyboardInterrupt
        raised.append(number)
        if number == signal.SIGHUP:
            process.drop_closed_output()

    with contextlib.suppress(ValueError):
        for number in process.ending_signals():
            previous[number] = signal.signal(number, handle)
    try:
        yield lambda: raised[0] if raised else 0
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def unless_interrupted(interrupted: Callable[[], int], make: Callable[[], Any]) -> Any:
    """What `make` returns, computed in a thread of its own, for as long as no signal comes.

    Compiling a step takes up to minutes, in which Python sees no signal; the job's manager kills
    sooner. A thread that is still at work cannot be stopped: commands end without it
    (`process.ending`), other programs wait for it when they exit. JAX's settings by `with` do not
    reach the thread.

    Several processes call it alike, and leave alike: they tell each other, again and again, of
    signals, results and errors, so that it ends for all of them with a result or for none. What
    they `make` must not wait for the others then, as a computation on all devices does.

    Raises:
        Interrupted: once the flag of any process is raised, if `make` has not ended on all of them.
        RuntimeError: where `make` has failed on another process; on that one, its own error.
    """
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
    try:
        while True:
            done = ended.wait(PATIENCE)
            error = outcome[0][1] if done else None
            number, working, failed = hosts.largest(interrupted(), not done, error is not None)
            if error is not None:
                raise error
            if failed:
                raise RuntimeError("another process has failed; it says of what")
            if not working:
                return outcome[0][0]
            if number:
                raise Interrupted(number)
    except BaseException:
        thread.name = process.LEFT_BEHIND
        raise


def compute(interrupted: Callable[[], int], function: Ahead, *arguments: Any) -> Any:
    """What `function` gives for `arguments`, of all devices, unless a signal comes before.

    Neither its compiler is waited for nor, by a process by itself, its result. Of several processes
    none may leave the others in what runs on the devices of all.

    Raises:
        Interrupted: on all processes, once the flag of any is raised.
    """
    if not function.compiled:
        unless_interrupted(interrupted, partial(function.compile, *arguments))
    (number,) = hosts.largest(interrupted())
    if number:
        raise Interrupted(number)
    if jax.process_count() > 1:
        return function(*arguments)
    return unless_interrupted(interrupted, lambda: jax.block_until_ready(function(*arguments)))
