"""Files of an evaluation: metrics.json, and a report as one HTML page that requests nothing."""

import base64
import importlib.resources
import io
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from PIL import Image

from codeformer_jax.evaluate import table
from codeformer_jax.evaluate.evaluation import Evaluation
from codeformer_jax.metrics import METRICS
from codeformer_jax.system import storage
from codeformer_jax.system.atomic import atomic_path
from codeformer_jax.system.figures import QUIET, data_url, new_axes
from codeformer_jax.system.storage import Path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS_FILE, REPORT_FILE = "metrics.json", "report.html"
# Larger pictures are reduced: thirty rows of 512 px would make a file of 50 MB.
_LARGEST_PICTURE, _LARGEST_PHOTO = 256, 1280
# Comment of the template that photographs replace.
_PLACE = "<!-- photographs -->"
_PHOTOGRAPHS = """\
<section><h2>Photographs</h2>
{% for caption, url in pictures.items() %}
<figure class="photograph"><img src="{{ url }}" alt="{{ caption }}">
<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
</section>
"""
# Readable on white and on black paper.
_BAR, _LINE, _BETTER, _WORSE = "#4a86c8", "#d9822b", "#2f9560", "#d0503f"
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
            are replaced.

    Returns:
        Paths of the two files.

    Raises:
        ValueError: a score is not finite; nothing is written.
    """
    contents = {METRICS_FILE: evaluation.to_json(), REPORT_FILE: html_report(evaluation)}
    folder = storage.to_path(directory)
    for name, content in contents.items():
        with atomic_path(folder / name) as path:
            # A file name may hold bytes that are not text.
            path.write_bytes(content.encode("utf-8", "replace"))
    return folder / METRICS_FILE, folder / REPORT_FILE


def add_photographs(directory: str | os.PathLike, pictures: Mapping[str, np.ndarray]) -> None:
    """Adds whole photographs to a written report.

    Args:
        directory: folder of the report.
        pictures: caption -> uint8 [h, w, 3].
    """
    path = storage.to_path(directory) / REPORT_FILE
    section = jinja2.Environment(autoescape=True).from_string(_PHOTOGRAPHS)
    urls = {caption: _picture_url(pixels, _LARGEST_PHOTO) for caption, pixels in pictures.items()}
    page = path.read_bytes().decode("utf-8", "replace")
    page = page.replace(_PLACE, section.render(pictures=urls))
    with atomic_path(path) as temporary:
        temporary.write_text(page, "utf-8")


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
                data_url(gain_chart(gain, axis)),
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
    chart = usage_chart(evaluation.code_counts)
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


def _picture_url(pixels: np.ndarray, largest: int = _LARGEST_PICTURE) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((largest, largest), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def gain_chart(gain: np.ndarray, unit: str) -> "Figure":
    """Draws the gain of every image as a bar, the smallest first.

    Args:
        gain: gains [n].
        unit: text of the vertical axis, such as 'PSNR gain (dB)'.
    """
    ordered = np.sort(gain)
    axes = new_axes("images, smallest gain first", unit)
    colours = np.where(ordered > 0, _BETTER, _WORSE)
    axes.bar(np.arange(len(ordered)), ordered, width=0.8, color=colours)
    axes.axhline(0, color=QUIET, linewidth=1)
    axes.set_xticks([])
    return axes.figure


def usage_chart(counts: Mapping[str, np.ndarray]) -> "Figure":
    """Draws the share of every code, the commonest first.

    Args:
        counts: {whose: how often each code occurs [K]}. The teacher's, or else the first, are
            filled and give the order; the others are lines.
    """
    first = "teacher" if "teacher" in counts else next(iter(counts))
    shares = {whose: 100 * c / max(c.sum(), 1) for whose, c in counts.items()}
    order = np.argsort(-shares[first], kind="stable")
    axes = new_axes(f"{len(order)} codes, commonest first", "share of all codes (%)")
    axes.stairs(shares[first][order], fill=True, color=_BAR, label=first)
    for whose, values in shares.items():
        if whose != first:
            axes.stairs(values[order], color=_LINE, linewidth=1, label=whose)
    axes.axhline(100 / len(order), color=QUIET, linewidth=1, linestyle="--", label="even use")
    axes.legend(frameon=False, labelcolor=QUIET)
    return axes.figure
