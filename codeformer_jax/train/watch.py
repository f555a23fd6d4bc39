"""Skipped steps: their batches are listed, and too many in a row end the run."""

import json
import logging
import math
from collections import deque
from typing import Any

import jax
import numpy as np

from codeformer_jax.system.atomic import keep_lines
from codeformer_jax.system.mirror import Mirror
from codeformer_jax.tasks.guard import decisive

SKIPPED_FILE = "skipped.jsonl"


class Diverged(ValueError):
    """Too many steps in a row had a non-finite loss or gradient."""


class Watch:
    """Record of the steps that the guard skipped; it does not wait for the device.

    Each skipped step is a line of `skipped.jsonl`: 'step' as in metrics.jsonl, 'not_finite' with
    the names of the non-finite metrics, 'index' and 'name' of the batch's examples. Hosts other
    than the first write theirs to `skipped-HOST.jsonl`.

    Args:
        mirror: the run's files.
        step: the step that the run starts from. Lines of later steps are removed.
        max_skipped: number of skipped steps in a row that ends the run.
    """

    def __init__(self, mirror: Mirror, step: int, max_skipped: int):
        host = jax.process_index()
        name = f"skipped-{host}.jsonl" if host else SKIPPED_FILE
        self._path, self._max = mirror.continued(name), max_skipped
        # Each host lists the images that it reads.
        self._listed = mirror.workdir / (name if jax.process_count() == 1 else "skipped*.jsonl")
        self._pending: deque[tuple[int, dict[str, Any]]] = deque()
        self._was_skipping, self._failure = False, None
        keep_lines(self._path, lambda line: line["step"] <= step)

    def take(self, step: int, batch: dict[str, Any]) -> None:
        """Remembers the batch of the step that ends at `step` until its metrics are read."""
        self._pending.append((step, {name: batch[name] for name in ("index", "name")}))

    def read(self, fetched: list[dict[str, float]]) -> dict[str, float]:
        """Reads the metrics of all steps since the last call.

        Args:
            fetched: one dict of metrics for each batch that was taken.

        Returns:
            Counts of skipped steps, as metrics.
        """
        skipped, in_row = [], 0.0
        for metrics in fetched:
            step, batch = self._pending.popleft()
            latest = metrics.get("skipped_in_row", 0.0)  # Tasks without the guard have none.
            in_row = max(in_row, latest)
            if metrics.get("skipped"):
                skipped.append(_line(step, batch, metrics))
            if latest >= self._max and self._failure is None:
                self._failure = self._message(step, int(latest))
        if skipped:
            with self._path.open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in skipped)
        if skipped and not self._was_skipping:
            logging.warning("%s", self._warning(skipped[0], len(skipped)))
        self._was_skipping = bool(skipped)
        return {
            "skipped": float(len(skipped)),
            "skipped_in_row": in_row,
            "skipped_total": fetched[-1].get("skipped_total", 0.0),
        }

    def check(self) -> None:
        """Raises Diverged if too many steps in a row were skipped."""
        if self._failure is not None:
            raise Diverged(self._failure)

    def _warning(self, first: dict[str, Any], count: int) -> str:
        return (
            f"step {first['step']}: {', '.join(first['not_finite'])} not finite; {count} of the "
            "last steps were skipped, and weights, averages and optimizers did not change. Their "
            f"images are listed in {self._listed}; the run stops after {self._max} in a row "
            "(--config.max_skipped)."
        )

    def _message(self, step: int, in_row: int) -> str:
        return (
            f"the {in_row} steps up to step {step} all had a non-finite loss or gradient; the "
            f"weights have not changed since step {step - in_row} and the last checkpoint is "
            f"intact. Images of the skipped batches are listed in {self._listed}. The same command "
            "meets the same batches again: remove faulty images, or lower "
            "--config.optimizer.learning_rate, clip gradients (--config.optimizer.clip_norm=1.0), "
            "use --config.model.dtype=float32, or raise --config.max_skipped."
        )


def _line(step: int, batch: dict[str, Any], metrics: dict[str, float]) -> dict[str, Any]:
    return {
        "step": step,
        "not_finite": sorted(n for n, x in metrics.items() if decisive(n) and not math.isfinite(x)),
        "index": np.asarray(batch["index"]).tolist(),
        "name": [str(name) for name in batch["name"]],
    }
