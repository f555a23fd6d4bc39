"""Goodput: the share of a run's wall time in steps that count, over all its starts.

Each start has a line in `goodput.jsonl`, which is written again every few seconds:

    {"started": 1767225600.0, "from_step": 0, "step": 1200, "finished": false,
     "seconds": {"start": 4.1, "compile": 31.0, "step": 260.2, ...}}
"""

import collections
import contextlib
import datetime
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from codeformer_jax.system import hosts
from codeformer_jax.system.atomic import keep_lines
from codeformer_jax.system.mirror import Mirror

GOODPUT_FILE = "goodput.jsonl"
# Kinds of time. `REPEATED` and `DOWN` show only when a run starts again.
START, RESTORE, COMPILE, STEP = "start", "restore", "compile", "step"
DATA_WAIT, EVALUATION, SAVE = "data wait", "evaluation", "save"
REPEATED, DOWN = "repeated steps", "down"
# A kill loses at most these seconds and a step from the record.
WRITE_EVERY = 10.0


class Clock:
    """Seconds of a process by kind. Each moment counts once, for the innermost kind.

    Args:
        kind: the kind of the first moment.

    Attributes:
        started: time of the first moment, in seconds since the epoch.
    """

    def __init__(self, kind: str = START):
        self.started = time.time()
        self._seconds: collections.Counter[str] = collections.Counter()
        self._kind, self._since = kind, time.perf_counter()

    def turn_to(self, kind: str) -> str:
        """Counts the time from now on as `kind`. Returns the kind before."""
        now = time.perf_counter()
        self._seconds[self._kind] += now - self._since
        before, self._kind, self._since = self._kind, kind, now
        return before

    @contextlib.contextmanager
    def during(self, kind: str, pending: Any = None) -> Iterator[None]:
        """Counts the block as `kind`.

        Args:
            kind: the kind of the block.
            pending: results of the steps before, which are waited for first.
        """
        jax.block_until_ready(pending)
        before = self.turn_to(kind)
        try:
            yield
        finally:
            self.turn_to(before)

    def move(self, kind: str, seconds: float) -> None:
        """Moves the latest `seconds` from the current kind to `kind`."""
        self.turn_to(self._kind)
        self._seconds[self._kind] -= seconds
        self._seconds[kind] += seconds

    def read(self) -> dict[str, float]:
        """Returns the seconds so far by kind. Their sum is the time since `started`."""
        self.turn_to(self._kind)
        return dict(self._seconds)


class Goodput:
    """Record of the time of all starts of a run. Only the first process writes and prints.

    Used in a `with` statement. Its end writes the last figures and prints the summary.

    Args:
        clock: the clock of this start.
        mirror: the run's files.
        step: the step that this start begins with.
        steps: the number of steps of the run.
    """

    def __init__(self, clock: Clock, mirror: Mirror, step: int, steps: int):
        self._clock = clock
        self._from, self._step, self._steps = step, step, steps
        self._writes = hosts.is_main()
        if self._writes:
            path = mirror.continued(GOODPUT_FILE)
            self._before = keep_lines(path, lambda _: True)
            path.touch()
            self._file = path.open("r+b", buffering=0)
            self._offset = self._file.seek(0, os.SEEK_END)
            self._write()

    def at(self, step: int) -> None:
        """Records the number of dispatched steps; writes every `WRITE_EVERY` seconds."""
        self._step = step
        if self._writes and time.perf_counter() - self._written >= WRITE_EVERY:
            self._write()

    def __enter__(self) -> "Goodput":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        finished = error is None and self._step >= self._steps
        if self._writes:
            with self._file:
                print(describe([*self._before, self._write(finished)]))

    def _write(self, finished: bool = False) -> dict[str, Any]:
        """Writes this start's line over the one before, and returns its content."""
        line = {
            "started": round(self._clock.started, 3),
            "from_step": self._from,
            "step": self._step,
            "finished": finished,
            "seconds": {kind: round(x, 3) for kind, x in self._clock.read().items()},
        }
        self._file.seek(self._offset)
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.truncate()
        self._written = time.perf_counter()
        return line


def add_up(starts: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float], int]:
    """Adds up the time of a run.

    Steps after the checkpoint from which a later start resumed are repeated: their part of the time
    of steps and of waiting for data moves to `REPEATED`. The time between a start's last line and
    the next start is `DOWN`, unless the run was finished.

    Args:
        starts: the lines of `goodput.jsonl`, in their order.

    Returns:
        The seconds by kind, and the number of repeated steps.
    """
    seconds: collections.Counter[str] = collections.Counter()
    repeated, resumed, following = 0, math.inf, None
    for start in reversed(starts):
        taken = start["step"] - start["from_step"]
        lost = int(min(taken, max(0, start["step"] - resumed)))
        for kind, value in start["seconds"].items():
            moved = value * lost / taken if lost and kind in (STEP, DATA_WAIT) else 0.0
            seconds[kind] += value - moved
            seconds[REPEATED] += moved
        if following is not None and not start["finished"]:
            ended = start["started"] + sum(start["seconds"].values())
            seconds[DOWN] += max(0.0, following - ended)
        repeated += lost
        resumed, following = min(resumed, start["from_step"]), start["started"]
    return dict(seconds), repeated


def describe(starts: Sequence[Mapping[str, Any]]) -> str:
    """Returns a line with the share of each kind of time, the largest first.

    Args:
        starts: the lines of `goodput.jsonl`, in their order; at least one.
    """
    seconds, repeated = add_up(starts)
    wall = sum(seconds.values())
    shares = {kind: value / wall for kind, value in seconds.items()}
    goodput = shares.pop(STEP, 0.0)
    rest = sorted(shares.items(), key=lambda item: -item[1])
    named = ", ".join(f"{kind} {share:.1%}" for kind, share in rest if share >= 0.0005)
    count = f"{len(starts)} start{'s' if len(starts) > 1 else ''}"
    again = f"; {repeated} steps were repeated" if repeated else ""
    elapsed = datetime.timedelta(seconds=round(wall))
    return f"goodput {goodput:.1%} of {elapsed} in {count}{named and '; the rest: '}{named}{again}"
