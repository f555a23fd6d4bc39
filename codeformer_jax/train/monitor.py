"""What looks after a run without slowing it: skipped steps, symptoms, speed, a profile."""

import os
from collections.abc import Iterable
from pathlib import Path

import jax
import ml_collections

from codeformer_jax.system import process
from codeformer_jax.train.speed import Speed, peak_tflops
from codeformer_jax.train.symptoms import Limits, Symptoms
from codeformer_jax.train.trace import Trace
from codeformer_jax.train.watch import Watch


def check_deterministic(config: ml_collections.ConfigDict, platform: str) -> None:
    """Raises ValueError where `train.deterministic` asks a GPU for what it has not been told.

    `train.py` tells XLA before JAX starts; a program of one's own has to do so itself.

    Args:
        config: of the run.
        platform: as of `jax.Device.platform`.
    """
    asked = config.train.get("deterministic") and platform == "gpu"
    if asked and process.DETERMINISTIC not in os.environ.get("XLA_FLAGS", ""):
        raise ValueError(
            f"train.deterministic=True needs {process.DETERMINISTIC} in XLA_FLAGS: remove another "
            "value of that flag or, outside train.py, call "
            "codeformer_jax.system.process.use_deterministic_programs() before JAX starts"
        )


class Monitor:
    """The instruments of a run: `speed`, `watch` and `trace` for the loop, `read` for the writer.

    Args:
        config: of the run.
        workdir: where skipped batches and a profile are written.
        step: from which the run goes on.
        devices: that it runs on.
        codebook_size: of a codebook in training, else None.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: Path,
        step: int,
        devices: Iterable[jax.Device],
        codebook_size: int | None,
    ):
        devices = list(devices)
        peak = peak_tflops(devices[0].device_kind, config.peak_tflops)
        self.speed = Speed(config.data.batch_size, peak and peak * 1e12 * len(devices))
        self.watch = Watch(workdir, step, config.max_skipped)
        self.trace = Trace(config.train.profile, workdir)
        maximum = config.loss.get("adaptive_maximum")
        self._symptoms = Symptoms(Limits(adaptive_maximum=maximum, codebook_size=codebook_size))

    def read(self, step: int, fetched: list[dict[str, float]]) -> dict[str, float]:
        """What to show beside the means of the steps' metrics; `check` of the watch comes after."""
        self._symptoms.read(step, fetched)
        return self.watch.read(fetched) | self.speed.read(len(fetched))

    def close(self) -> None:
        """Ends a trace under way."""
        self.trace.close()
