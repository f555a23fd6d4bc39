"""Instruments of a run: skipped steps, symptoms, speed, and a profile by `jax.profiler`."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import ml_collections

from codeformer_jax.system import process
from codeformer_jax.system.mirror import Mirror
from codeformer_jax.train.goodput import Clock
from codeformer_jax.train.speed import Speed, peak_tflops
from codeformer_jax.train.symptoms import Symptoms
from codeformer_jax.train.watch import Watch


def check_deterministic(config: ml_collections.ConfigDict, platform: str) -> None:
    """Checks that XLA was asked for deterministic programs where `train.deterministic` needs it.

    `train.py` asks before JAX starts; another program has to do so itself.

    Args:
        config: the run's config.
        platform: a `jax.Device.platform`.

    Raises:
        ValueError: if the flag is missing on a GPU.
    """
    asked = config.train.get("deterministic") and platform == "gpu"
    if asked and process.DETERMINISTIC not in os.environ.get("XLA_FLAGS", ""):
        raise ValueError(
            f"train.deterministic=True needs {process.DETERMINISTIC} in XLA_FLAGS: remove another "
            "value of that flag or, outside train.py, call "
            "codeformer_jax.system.process.use_deterministic_programs() before JAX starts"
        )


class Monitor:
    """The instruments of a run: the loop uses `speed`, `watch` and `trace`, the writer `read`.

    Args:
        config: the run's config.
        mirror: the run's files, for skipped batches and a profile.
        step: the step that the run starts from.
        devices: the devices that it runs on.
        codebook_size: number of codes if a codebook is trained, else None.
        clock: the clock of the run.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        mirror: Mirror,
        step: int,
        devices: Iterable[jax.Device],
        codebook_size: int | None,
        clock: Clock,
    ):
        devices = list(devices)
        peak = peak_tflops(devices[0].device_kind, config.peak_tflops)
        self.speed = Speed(clock, config.data.batch_size, peak and peak * 1e12 * len(devices))
        self.watch = Watch(mirror, step, config.max_skipped)
        self.trace = Trace(config.train.profile, mirror.folder)
        maximum = config.loss.get("adaptive_maximum")
        self._symptoms = Symptoms(maximum, codebook_size)

    def read(self, step: int, fetched: list[dict[str, float]]) -> dict[str, float]:
        """Reads the metrics of the steps since the last call.

        Args:
            step: the current step.
            fetched: one dict of metrics per step.

        Returns:
            More metrics: speed and counts of skipped steps.
        """
        self._symptoms.read(step, fetched)
        return self.watch.read(fetched) | self.speed.read(len(fetched))

    def close(self) -> None:
        """Ends a trace that is running, and waits for the steps under way."""
        self.trace.close()
        self.speed.close()


class Trace:
    """Profile of the steps START to STOP - 1, counted from 0.

    A run that resumes between them starts recording at once. A run that ends before STOP keeps what
    was recorded.

    Args:
        steps: 'START:STOP', or None for no profile.
        folder: where the profile goes, to its folder `profile`.

    Raises:
        ValueError: if `steps` is malformed.
    """

    def __init__(self, steps: str | None, folder: Path):
        self._steps = parse_steps(steps)
        self._folder = folder / "profile"
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
