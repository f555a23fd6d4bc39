"""A profile of a few steps, recorded by `jax.profiler`."""

from pathlib import Path
from typing import Any

import jax

FOLDER = "profile"


class Trace:
    """Records steps START to STOP - 1, counted from 0.

    A run that resumes between them starts recording at once. A run that ends before STOP keeps what
    was recorded.

    Args:
        steps: 'START:STOP', or None for no profile.
        workdir: the run's folder. The profile goes to its folder `profile`.

    Raises:
        ValueError: if `steps` is malformed.
    """

    def __init__(self, steps: str | None, workdir: Path):
        self._steps = parse_steps(steps)
        self._folder = workdir / FOLDER
        self._running = False

    def at(self, step: int, pending: Any) -> None:
        """Starts or ends the recording. Call it before each step.

        Args:
            step: the step that comes next.
            pending: results of the step before, which the recording waits for.
        """
        if self._running and step not in self._steps:
            jax.block_until_ready(pending)
            self.close()
        elif step in self._steps and not self._running:
            self._folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(self._folder)
            self._running = True

    def close(self) -> None:
        """Ends the recording if it is running."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()


def parse_steps(text: str | None) -> range:
    """Returns range(START, STOP) for 'START:STOP', an empty range for None.

    Raises:
        ValueError: if `text` is malformed.
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
