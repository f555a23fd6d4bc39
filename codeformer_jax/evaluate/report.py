"""Files of an evaluation: metrics.json, and a report as one HTML page that requests nothing."""

import base64
import contextlib
import importlib.resources
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from codeformer_jax.evaluate import charts, table
from codeformer_jax.evaluate.evaluation import Evaluation
from codeformer_jax.metrics import METRICS
from codeformer_jax.system.atomic import atomic_path
from codeformer_jax.system.figures import data_url

METRICS_FILE, REPORT_FILE = "metrics.json", "report.html"
# Larger pictures are reduced: thirty rows of 512 px would make a file of 50 MB.
_LARGEST_PICTURE = 256
_GROUPS = {
    "worst": "Worst cases",
    "first": "The first images of the set",
    "best": "Best cases",
}


def write_report(evaluation: Evaluation, directory: str | os.PathLike) -> tuple[Path, Path]:
    """Writes `metrics.json` and `report.html`.

    Args:
        evaluation: results to write.
        directory: folder of the files; made where it is missing. Files of an earlier evaluation
            are replaced only once both new ones are complete.

    Returns:
        Paths of the two files.

    Raises:
        ValueError: a score is not finite; nothing is written.
    """
    contents = {METRICS_FILE: evaluation.to_json(), REPORT_FILE: html_report(evaluation)}
    with contextlib.ExitStack() as stack:
        for name, content in contents.items():
            path = stack.enter_context(atomic_path(Path(directory, name)))
            # A file name may hold bytes that are not text.
            path.write_bytes(content.encode("utf-8", "replace"))
    return Path(directory, METRICS_FILE), Path(directory, REPORT_FILE)


def html_report(evaluation: Evaluation) -> str:
    """Returns the report as one HTML document."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = importlib.resources.files(__package__).joinpath("report_template.html")
    per_image = [name for name in evaluation.metrics if METRICS[name].reduce is None]
    return environment.from_string(template.read_text("utf-8")).render(
        evaluation=evaluation,
        means=evaluation.means(),
        gain=evaluation.gain,
        per_image=per_image,
        groups=_GROUPS,
        METRICS=METRICS,
        table=table,
        charts=_charts(evaluation),
        picture_url=_picture_url,
        settings=_settings(evaluation.settings),
    )


def _charts(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """Returns (data URL, description, caption) of each chart."""
    found = []
    if (gain := evaluation.gain) is not None:
        metric = METRICS[evaluation.ranking]
        ends = (metric.text(value, sign=True) for value in (gain.min(), gain.max()))
        axis = f"{metric.heading} gain" + (f" ({metric.unit})" if metric.unit else "")
        found.append(
            (
                data_url(charts.gain_chart(gain, axis)),
                f"{axis} of {len(gain)} images from {' to '.join(ends)}",
                f"{metric.heading} gain of every image at {table.label(evaluation.best_row)} over "
                "its input.",
            )
        )
    if not evaluation.code_counts:
        return found
    text = "How often each code of the codebook occurs."
    if "teacher" in evaluation.code_counts:
        text = (
            "How often each code occurs: the teacher's codes of the clean images and the "
            "predicted ones."
        )
    chart = charts.usage_chart(evaluation.code_counts)
    found.append((data_url(chart), "codebook use", text))
    return found


def _settings(values: Mapping[str, Any], indent: str = "") -> str:
    """Returns one line per value, with nested mappings indented."""
    lines = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines.append(f"{indent}{name}:\n{_settings(value, indent + '    ')}")
        else:
            lines.append(f"{indent}{name}: {json.dumps(value)}")
    return "\n".join(lines)


def _picture_url(pixels: np.ndarray) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((_LARGEST_PICTURE, _LARGEST_PICTURE), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
