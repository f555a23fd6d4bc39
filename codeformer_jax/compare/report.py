"""Report of a comparison: one HTML page that requests nothing."""

import importlib.resources
from typing import Any

import jinja2

from codeformer_jax.compare import text
from codeformer_jax.compare.charts import depth_chart
from codeformer_jax.system.figures import data_url

# Kind of the rows -> heading and horizontal axis of their chart.
_CHARTS = {
    "activation": ("Growth with depth", "layers in execution order"),
    "activation_gradient": ("Gradients by activation", "layers in the order of the backward pass"),
    "gradient": ("Gradients by parameter", "parameters"),
    "parameter": ("Parameters after the step", "parameters"),
}


def html_report(comparison: Any) -> str:
    """Returns the report as one HTML document.

    Args:
        comparison: a `Comparison`.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = importlib.resources.files(__package__).joinpath("report_template.html")
    ours, theirs = comparison.made_by
    return environment.from_string(template.read_text("utf-8")).render(
        c=comparison,
        text=text,
        origins=[(w, ours.get(w, ""), theirs.get(w, "")) for w in {**ours, **theirs}],
        charts=_charts(comparison),
    )


def _charts(comparison: Any) -> list[tuple[str, str, str]]:
    """Returns (heading, data URL, description) of a chart for each kind that has several rows."""
    found = []
    for kind, (heading, below) in _CHARTS.items():
        rows = [row for row in comparison.rows if row.kind == kind]
        if len(rows) > 1:
            chart = depth_chart(rows, comparison.tolerance, below)
            differ = sum(not row.agrees for row in rows)
            description = f"{differ} of {len(rows)} rows are beyond the tolerance"
            found.append((heading, data_url(chart), description))
    return found
