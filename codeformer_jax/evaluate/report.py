"""A report of an evaluation: one HTML file with everything in it, which requests nothing."""

import base64
import contextlib
import html
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from codeformer_jax.evaluate.charts import gain_chart, usage_chart
from codeformer_jax.evaluate.evaluation import Evaluation, Pictures
from codeformer_jax.evaluate.style import SCRIPT, STYLE
from codeformer_jax.evaluate.table import (
    HEADINGS,
    code_rows,
    figure,
    label,
    pairs_text,
    short,
    usage_rows,
)
from codeformer_jax.system.atomic import atomic_path

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
    """The whole report as one HTML document."""
    kind = evaluation.settings["network"]["class"]
    job = "reconstruction" if evaluation.gain is None else "restoration"
    title = f"{kind}: {job} of {len(evaluation.names)} images"
    body = [
        f"<header><h1>{html.escape(title)}</h1>{_summary(evaluation)}</header>",
        _section("Scores", _means(evaluation)),
        _section("Every image and every code at a glance", _charts(evaluation)),
        *(_gallery(evaluation, group) for group in _GROUPS),
        _section("All images", _images(evaluation)),
        _section("Settings", f"<pre>{html.escape(_settings(evaluation.settings))}</pre>"),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + f"\n<script>{SCRIPT}</script>\n</body></html>\n"
    )


def _summary(evaluation: Evaluation) -> str:
    height, width = evaluation.settings["image_size"]
    number, means = len(evaluation.names), evaluation.means()
    best, text = evaluation.best_row, []
    gain = evaluation.gain
    if gain is None:
        text.append(
            f"Reconstructions of {number} clean images of {height} x {width} px reach "
            f"<b>{means[best]['psnr']:.2f}&nbsp;dB</b> PSNR on average."
        )
    else:
        verb = "gains" if gain.mean() > 0 else "loses"
        stored = "testset" in evaluation.settings
        done = "had been degraded and were restored" if stored else "were degraded and restored"
        text.append(
            f"{number} clean images of {height} x {width} px {done}. "
            f"At {label(best)} restoration {verb} <b>{abs(gain.mean()):.2f}&nbsp;dB</b> PSNR over "
            f"its input on average; {int((gain > 0).sum())} of {number} images gain."
        )
    if evaluation.settings.get("skipped"):
        text.append(f"{evaluation.settings['skipped']} images could not be read and are left out.")
    if "testset" in evaluation.settings:
        sha256 = html.escape(evaluation.settings["testset"]["sha256"])
        text.append(
            f"Pairs of {html.escape(pairs_text(evaluation))}, "
            f"verified before: <small>SHA-256 <code>{sha256}</code></small>."
        )
    return f"<p>{' '.join(text)}</p>"


def _means(evaluation: Evaluation) -> str:
    means = evaluation.means()
    shown = list(next(iter(means.values())))
    start = means.get("input")
    rows = []
    for row, values in means.items():
        cells = [_head(label(row))]
        for metric in shown:
            cell = figure(metric, values[metric])
            if start is not None and row != "input":
                decimals = HEADINGS[metric][1]
                better = (values[metric] > start[metric]) != (metric == "lpips")
                change = f"{values[metric] - start[metric]:+.{decimals}f}"
                cell += f' <span class="{"better" if better else "worse"}">{change}</span>'
            cells.append(f"<td>{cell}</td>")
        rows.append(f"<tr{_class('reference', row in ('input', 'teacher'))}>{''.join(cells)}</tr>")
    directions = {"psnr": "↑", "ssim": "↑", "lpips": "↓"}
    heads = [f"{HEADINGS[metric][0]} {directions[metric]}" for metric in shown]
    tables = [_table(["means over the images", *heads], rows)]
    if codes := code_rows(evaluation):
        tables.append(
            _table(["codes", "accuracy ↑", "cross entropy (nats) ↓"], map(_row, codes))
            + '<p class="note">“Known frequencies only” always guesses the commonest code of '
            "this set, or guesses by the codes' frequencies: what a prediction that looks at no "
            "image would reach.</p>"
        )
    if rows := usage_rows(evaluation):
        size = len(next(iter(evaluation.code_counts.values())))
        heads = [f"codebook of {size}", "perplexity", "used", "dead", "commonest"]
        tables.append(_table(heads, map(_row, rows)))
    note = "Arrows point to the better side."
    if start is not None:
        note += " Small figures are the change from the degraded input."
    if "teacher" in means:
        note += " The teacher reconstructs the clean image: what perfect codes would give."
    blocks = "".join(f"<div>{table}</div>" for table in tables)
    return f'<p class="note">{note}</p><div class="tables">{blocks}</div>'


def _charts(evaluation: Evaluation) -> str:
    charts = []
    if evaluation.gain is not None:
        charts.append(
            _figure(
                gain_chart(evaluation.gain, evaluation.names),
                f"PSNR gain of every image at {label(evaluation.best_row)} over its input.",
            )
        )
    text = "How often each code of the codebook occurs. The dashed line is an even use of all."
    if "teacher" in evaluation.code_counts:
        text = (
            "How often each code occurs: teacher's codes of the clean images (bars) and predicted "
            "ones (line). The dashed line is an even use of all."
        )
    if evaluation.code_counts:
        charts.append(_figure(usage_chart(evaluation.code_counts), text))
    return f'<div class="charts">{"".join(charts)}</div>'


def _figure(content: str, caption: str) -> str:
    return f"<figure>{content}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _gallery(evaluation: Evaluation, group: str) -> str:
    chosen = [pictures for pictures in evaluation.pictures if pictures.group == group]
    if not chosen:
        return ""
    order = "PSNR" if evaluation.gain is None else f"PSNR gain at {label(evaluation.best_row)}"
    notes = {
        "worst": f"Smallest {order} first.",
        "first": "Not chosen by any score; images shown above are left out.",
        "best": f"Largest {order} first.",
    }
    rows = "".join(_pictures(evaluation, pictures) for pictures in chosen)
    return _section(_GROUPS[group], f'<p class="note">{notes[group]}</p>{rows}')


def _pictures(evaluation: Evaluation, pictures: Pictures) -> str:
    i, name = pictures.image, html.escape(evaluation.names[pictures.image])
    facts = []
    if evaluation.gain is not None:
        gain = evaluation.gain[i]
        facts.append(f'<span class="{"better" if gain > 0 else "worse"}">{gain:+.2f} dB</span>')
    if "accuracy" in evaluation.codes:
        facts.append(f"code accuracy {evaluation.codes['accuracy'][i]:.1%}")
    cells = []
    for row, pixels in pictures.pictures.items():
        scores = evaluation.scores.get(row)
        numbers = "clean image" if scores is None else _numbers(scores, i)
        cells.append(
            f'<figure><img src="{_data_url(pixels)}" alt="{name}: {label(row)}" loading="lazy">'
            f"<figcaption><b>{short(row)}</b><br>{numbers}</figcaption></figure>"
        )
    return (
        f'<article id="image-{i}"><h3>{name} <small>{" · ".join(facts)}</small></h3>'
        f'<div class="row">{"".join(cells)}</div></article>'
    )


def _numbers(scores: Mapping[str, np.ndarray], image: int) -> str:
    units = {"psnr": "{} dB", "ssim": "SSIM {}", "lpips": "LPIPS {}"}
    return "<br>".join(
        units[metric].format(figure(metric, float(values[image])))
        for metric, values in scores.items()
    )


def _images(evaluation: Evaluation) -> str:
    shown = {pictures.image for pictures in evaluation.pictures}
    columns = [
        (f"{short(row)}: {HEADINGS[metric][0]}", [figure(metric, float(v)) for v in values])
        for row, scores in evaluation.scores.items()
        for metric, values in scores.items()
    ]
    if evaluation.gain is not None:
        columns.insert(0, ("gain (dB)", [f"{gain:+.2f}" for gain in evaluation.gain]))
    if "accuracy" in evaluation.codes:
        columns.append(("code accuracy", [f"{a:.1%}" for a in evaluation.codes["accuracy"]]))
    rows = []
    for i, name in enumerate(evaluation.names):
        text = html.escape(name)
        head = f'<a href="#image-{i}">{text}</a>' if i in shown else text
        cells = "".join(f"<td>{values[i]}</td>" for _, values in columns)
        rows.append(f'<tr><th scope="row">{head}</th>{cells}</tr>')
    heads = "".join(
        f'<th scope="col"><button type="button">{html.escape(head)}</button></th>'
        for head in ("image", *(head for head, _ in columns))
    )
    return (
        '<p class="note">A click on a heading sorts. Linked images are shown above.</p>'
        f'<div class="wide"><table class="sortable"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>"


def _table(heads: Sequence[str], rows: Iterable[str]) -> str:
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _row(cells: Sequence[str]) -> str:
    data = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells[1:])
    return f"<tr>{_head(cells[0])}{data}</tr>"


def _head(text: str) -> str:
    return f'<th scope="row">{html.escape(text)}</th>'


def _class(name: str, wanted: bool) -> str:
    return f' class="{name}"' if wanted else ""


def _settings(values: Mapping[str, Any], indent: str = "") -> str:
    """One line per value, nested mappings indented."""
    lines = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines.append(f"{indent}{name}:\n{_settings(value, indent + '    ')}")
        else:
            lines.append(f"{indent}{name}: {json.dumps(value)}")
    return "\n".join(lines)


def _data_url(pixels: np.ndarray) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((_LARGEST_PICTURE, _LARGEST_PICTURE), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
