"""Output of a run: metrics.jsonl, TensorBoard, a progress bar, pictures of held-out images."""

import json
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
from PIL import Image, ImageDraw
from tensorboardX import SummaryWriter
from tqdm import tqdm

from codeformer_jax.system import hosts
from codeformer_jax.system.atomic import keep_lines
from codeformer_jax.system.mirror import Mirror

LABEL_HEIGHT = 14
Reader = Callable[[int, list[dict[str, float]]], dict[str, float]]


class Writer:
    """Writer of metrics, which stay on the device until they are fetched every `log_every` steps.

    Only the first process writes. Every process calls `read`, which may end the run.

    Args:
        mirror: the run's files.
        step: the step that the run starts from. Lines of later steps are removed.
        config: the run's config.
        read: (step, metrics of each step since the last call) -> more metrics, which are written
            beside the means.
    """

    def __init__(self, mirror: Mirror, step: int, config: ml_collections.ConfigDict, read: Reader):
        self._folder, self._config, self._read = mirror.folder, config, read
        self._writes = hosts.is_main()
        self._bar = tqdm(
            total=config.steps,
            initial=step,
            desc=config.task,
            unit="step",
            dynamic_ncols=True,
            disable=not self._writes,
        )
        if self._writes:
            self._path = mirror.continued("metrics.jsonl")
            (self._folder / "images").mkdir(parents=True, exist_ok=True)
            # A resumed run repeats the evaluation of `step`, but not its training step.
            kept = keep_lines(
                self._path, lambda x: x["step"] < step or (x["step"] == step and _is_of_training(x))
            )
            # TensorBoard hides what earlier writers wrote from this step on.
            self._board = SummaryWriter(str(self._folder), purge_step=step, flush_secs=30)
            for entry in kept:
                for name, value in entry.items():
                    if entry["step"] == step and name.startswith("train/"):
                        shown = math.nan if value is None else value
                        self._board.add_scalar(name, shown, step, walltime=entry["time"])
        self._pending: list[dict[str, jax.Array]] = []
        self._step = step

    def train_metrics(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of the step that ends at `step` without waiting for it."""
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
        """Writes held-out scores and a picture whose columns are the panels.

        Args:
            step: the step of the evaluated state.
            scores: the scores by name.
            panels: images [b, h, w, 3] in [-1, 1] by label.
        """
        if not self._writes:
            return
        self._write(step, {f"eval/{name}": value for name, value in scores.items()})
        if panels:
            picture = draw_panels(panels)
            Image.fromarray(picture).save(self._folder / "images" / f"{step:08d}.png")
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
        """Writes pending metrics and closes the progress bar."""
        try:
            if self._pending:
                self._flush(self._step)
        finally:
            self._bar.close()
            if self._writes:
                self._board.close()


def _means(fetched: list[dict[str, float]]) -> dict[str, float]:
    """Returns the mean of each metric over the steps that have it and were not skipped."""
    taken = [metrics for metrics in fetched if not metrics.get("skipped")]
    values = {
        name: [metrics[name] for metrics in taken if name in metrics]
        for name in sorted({name for metrics in fetched for name in metrics})
    }
    return {name: float(np.mean(x)) if x else math.nan for name, x in values.items()}


def draw_panels(panels: dict[str, np.ndarray], rows: int = 8) -> np.ndarray:
    """Draws a labelled picture with a row per image and a column per panel.

    Args:
        panels: images [b, h, w, 3] in [-1, 1] by label.
        rows: largest number of images.

    Returns:
        uint8 [h, w, 3].
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


def _is_of_training(entry: dict[str, Any]) -> bool:
    return any(name.startswith("train/") for name in entry)
