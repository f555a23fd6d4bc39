"""What a run shows: metrics.jsonl, TensorBoard, a progress bar, pictures of held-out images."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from PIL import Image, ImageDraw
from tensorboardX import SummaryWriter
from tqdm import tqdm

from codeformer_jax.system import hosts
from codeformer_jax.system.atomic import atomic_path

LABEL_HEIGHT = 14
Reader = Callable[[int, list[dict[str, float]]], dict[str, float]]


class Writer:
    """Collects the metrics of steps on the device and fetches them every `log_every` steps.

    `read` is then given the step and the metrics of each step since the last time; what it returns
    is written beside their means. Of several processes each reads, since what it reads may end the
    run, and the first one writes.
    """

    def __init__(self, workdir: Path, step: int, config: ml_collections.ConfigDict, read: Reader):
        self._workdir, self._config, self._read = workdir, config, read
        self._writes = hosts.is_main()
        self._bar = tqdm(
            total=config.steps,
            initial=step,
            desc=config.task,
            unit="step",
            dynamic_ncols=True,
            disable=not self._writes,
        )
        self._path = workdir / "metrics.jsonl"
        if self._writes:
            (workdir / "images").mkdir(parents=True, exist_ok=True)
            kept = _drop_after(self._path, step)
            # TensorBoard hides what earlier writers wrote from this step on; the training metrics
            # at the step itself are not computed again.
            self._board = SummaryWriter(str(workdir), purge_step=step)
            for entry in kept:
                for name, value in entry.items():
                    if name.startswith("train/"):
                        shown = math.nan if value is None else value
                        self._board.add_scalar(name, shown, step, walltime=entry["time"])
        self._pending: list[dict[str, jax.Array]] = []
        self._step = step

    def train_metrics(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of the step that ended at `step` without waiting for it."""
        self._pending.append(metrics)
        self._step = step
        if step % self._config.log_every == 0 or step == self._config.steps:
            self._flush(step)

    def _flush(self, step: int) -> None:
        count = len(self._pending)
        arrays, self._pending = jax.device_get(self._pending), []
        fetched = [{name: float(x) for name, x in metrics.items()} for metrics in arrays]
        means = _means(fetched) | self._read(step, fetched)
        self._write(step, {f"train/{name}": value for name, value in means.items()})
        loss = f", loss {means['loss']:.4f}" if "loss" in means else ""
        self._bar.set_postfix_str(f"{means['images_per_second']:.1f} images/s{loss}", refresh=False)
        self._bar.update(count)

    def eval_metrics(
        self, step: int, scores: dict[str, float], panels: dict[str, np.ndarray]
    ) -> None:
        """Writes held-out scores and a picture whose columns are the panels."""
        if not self._writes:
            return
        self._write(step, {f"eval/{name}": value for name, value in scores.items()})
        if panels:
            picture = draw_panels(panels)
            Image.fromarray(picture).save(self._workdir / "images" / f"{step:08d}.png")
            self._board.add_image("eval/images", picture, step, dataformats="HWC")
        text = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        tqdm.write(f"step {step}: {text}")

    def _write(self, step: int, values: dict[str, float]) -> None:
        if not self._writes:
            return
        # JSON has no NaN or infinity.
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is pending and ends the bar."""
        if self._pending:
            self._flush(self._step)
        self._bar.close()
        if self._writes:
            self._board.close()


def _means(fetched: list[dict[str, float]]) -> dict[str, float]:
    """Means of each metric over the steps that have it and were not skipped."""
    taken = [metrics for metrics in fetched if not metrics.get("skipped")]
    values = {
        name: [metrics[name] for metrics in taken if name in metrics]
        for name in sorted({name for metrics in fetched for name in metrics})
    }
    return {name: float(np.mean(x)) if x else math.nan for name, x in values.items()}


def draw_panels(panels: dict[str, np.ndarray], rows: int = 8) -> np.ndarray:
    """A labelled picture, uint8 [h, w, 3]: a row per image, a column per panel.

    Args:
        panels: label -> images [b, h, w, 3] in [-1, 1].
        rows: at most this many images.
    """
    columns = []
    for label, images in panels.items():
        pixels = np.asarray(images[:rows])
        pixels = np.clip((pixels + 1) * 127.5, 0, 255).round().astype(np.uint8)
        repeat = max(1, 128 // pixels.shape[2])
        pixels = pixels.repeat(repeat, axis=1).repeat(repeat, axis=2)
        header = Image.new("RGB", (pixels.shape[2], LABEL_HEIGHT), "white")
        ImageDraw.Draw(header).text((3, 1), label, fill="black")
        columns.append(np.concatenate([np.asarray(header), *pixels]))
    return np.concatenate(columns, axis=1)


def _drop_after(path: Path, step: int) -> list[dict[str, Any]]:
    """Removes lines of steps that a resumed run will take again.

    Returns:
        The entries that are left at `step` itself.
    """
    if not path.exists():
        return []
    kept, last = [], []
    for line in path.read_text().splitlines():
        try:
            entry: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            continue  # The line that was being written when the run was killed.
        # The evaluation of `step` itself will be done again; its training step will not.
        if entry["step"] < step or (entry["step"] == step and _is_of_training(entry)):
            kept.append(line)
            last += [entry] if entry["step"] == step else []
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in kept))
    return last


def _is_of_training(entry: dict[str, Any]) -> bool:
    return any(name.startswith("train/") for name in entry)
