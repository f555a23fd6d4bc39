"""A profile of a few steps, written by `jax.profiler` into the workdir."""

from pathlib import Path
from typing import Any

import jax

FOLDER = "profile"


class Trace:
    """Traces steps START to STOP - 1, counted from 0, of 'START:STOP'.

    A run that goes on in between begins at once; one that ends before STOP closes what there is.

    Args:
        steps: 'START:STOP', or None for no trace.
        workdir: of the run; the trace goes to its folder `profile`.

    Raises:
        ValueError: where `steps` cannot be read.
    """

    def __init__(self, steps: str | None, workdir: Path):
        self._steps = parse_steps(steps)
        self._folder = workdir / FOLDER
        self._running = False

    def at(self, step: int, pending: Any) -> None:
        """Called before each step: begins before the first, ends once `pending` of the last is."""
        if self._running and step not in self._steps:
            jax.block_until_ready(pending)
            self.close()
        elif step in self._steps and not self._running:
            self._folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(self._folder)
            self._running = True

    def close(self) -> None:
        """Ends a trace under way."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()


def parse_steps(text: str | None) -> range:
    """range(START, STOP) of 'START:STOP'; empty for None.

    Raises:
        ValueError: for anything else.
    """
    if not text:
        return range(0)
    start, separator, stop = text.partition(":")
    if not (separator and start.isdigit() and stop.isdigit() and int(start) < int(stop)):
        raise ValueError(
            f"train.profile is {text!r}; expected 'START:STOP', steps counted from 0 and "
            "START < STOP, such as '100:110'"
        )
    return range(int(start), int(stop))
