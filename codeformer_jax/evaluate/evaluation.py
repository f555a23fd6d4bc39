"""What an evaluation found: scores per image, their means, a table, JSON and a report."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from codeformer_jax import metrics
from codeformer_jax.system.atomic import atomic_path

METRICS = ("psnr", "ssim", "lpips")
METRICS_FILE, REPORT_FILE = "metrics.json", "report.html"


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures of one image: {row: uint8 [h, w, 3]}, with the row 'truth' last.

    Attributes:
        group: 'worst', 'first' or 'best': why it is shown.
        image: its place among the evaluated images.
        pictures: as above.
    """

    group: str
    image: int
    pictures: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of n images.

    Attributes:
        names, indices: of the images, [n]: their names and places in the source.
        scores: {row: {metric: [n]}}. Rows are 'input', 'w=...' in rising order and, with a
            teacher, 'teacher'; or 'reconstruction' alone for a VQGAN. Metrics are 'psnr' (dB),
            'ssim' and, where weights were given, 'lpips'.
        codes: with a teacher {'accuracy', 'cross_entropy' (nats per code)}: [n], else empty.
        code_counts: {whose: how often each code occurs [K]}; 'predicted' and 'teacher', or
            'network' where there is no teacher.
        settings: everything that the scores depend on, as JSON values.
        pictures: a few images: the worst, the first and the best.
    """

    names: tuple[str, ...]
    indices: tuple[int, ...]
    scores: Mapping[str, Mapping[str, np.ndarray]]
    codes: Mapping[str, np.ndarray]
    code_counts: Mapping[str, np.ndarray]
    settings: Mapping[str, Any]
    pictures: tuple[Pictures, ...] = ()

    @property
    def best_row(self) -> str:
        """The row with the largest fidelity weight, or 'reconstruction'."""
        return [row for row in self.scores if row not in ("input", "teacher")][-1]

    @property
    def gain(self) -> np.ndarray | None:
        """PSNR in dB that `best_row` has over the input [n]; None where nothing was degraded."""
        if "input" not in self.scores:
            return None
        return self.scores[self.best_row]["psnr"] - self.scores["input"]["psnr"]

    def means(self) -> dict[str, dict[str, float]]:
        """{row: {metric: mean over the images}}."""
        return {
            row: {metric: float(np.mean(values)) for metric, values in scores.items()}
            for row, scores in self.scores.items()
        }

    def code_means(self) -> dict[str, float]:
        """Mean accuracy and cross entropy of the predicted codes, and what they must beat.

        'commonest_accuracy' is that of always guessing the teacher's commonest code of this set,
        'frequency_cross_entropy' that of guessing by the codes' frequencies. Empty without teacher.
        """
        if not self.codes:
            return {}
        usage = self.usage()["teacher"]
        return {
            **{name: float(np.mean(values)) for name, values in self.codes.items()},
            "commonest_accuracy": usage["commonest_share"],
            "frequency_cross_entropy": math.log(usage["perplexity"]),
        }

    def usage(self) -> dict[str, dict[str, int | float]]:
        """{whose: {'perplexity', 'used', 'dead', 'commonest_share'}}, see `CodebookUsage`."""
        result = {}
        for whose, counts in self.code_counts.items():
            usage = metrics.codebook_usage(jnp.asarray(counts, jnp.float32))
            result[whose] = {
                "perplexity": float(usage.perplexity),
                "used": int(usage.used),
                "dead": int(usage.dead),
                "commonest_share": float(usage.commonest_share),
            }
        return result

    def table(self) -> str:
        """The means as plain text for a terminal."""
        # Here, because it takes an Evaluation itself; the report below likewise.
        from codeformer_jax.evaluate.table import plain_text  # noqa: PLC0415

        return plain_text(self)

    def to_json(self) -> str:
        """Settings, means and the numbers of every image as standard JSON."""
        images = [
            {
                "name": name,
                "index": index,
                "scores": {
                    row: {metric: float(values[i]) for metric, values in scores.items()}
                    for row, scores in self.scores.items()
                },
                **{f"code_{name}": float(values[i]) for name, values in self.codes.items()},
            }
            for i, (name, index) in enumerate(zip(self.names, self.indices, strict=True))
        ]
        codes = {
            **self.code_means(),
            "usage": self.usage(),
            "counts": {whose: counts.tolist() for whose, counts in self.code_counts.items()},
        }
        content = {
            "settings": self.settings,
            "means": self.means(),
            "codes": codes,
            "images": images,
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    def write(self, directory: str | os.PathLike) -> tuple[pathlib.Path, pathlib.Path]:
        """Writes `metrics.json` and `report.html` into `directory` and returns their paths.

        The folder is made where it is missing. Files of an earlier evaluation are replaced only
        once the new ones are complete.
        """
        from codeformer_jax.evaluate.report import html_report  # noqa: PLC0415

        contents = {METRICS_FILE: self.to_json(), REPORT_FILE: html_report(self)}
        directory = pathlib.Path(directory)
        with contextlib.ExitStack() as stack:  # Both files appear once both are complete.
            for name, content in contents.items():
                path = stack.enter_context(atomic_path(directory / name))
                # A file name may hold bytes that are not text.
                path.write_bytes(content.encode("utf-8", "replace"))
        return directory / METRICS_FILE, directory / REPORT_FILE
