"""Results of an evaluation as text: labels, rows of tables, and the table for a terminal."""

from collections.abc import Sequence

from codeformer_jax.evaluate.evaluation import Evaluation
from codeformer_jax.metrics import METRICS

_LABELS = {
    "input": "degraded input",
    "teacher": "teacher's reconstruction",
    "reconstruction": "reconstruction",
    "truth": "ground truth",
}


def label(row: str) -> str:
    """Returns a row's name for readers: 'w=0.5' -> 'w = 0.5'."""
    return _LABELS.get(row, row.replace("=", " = "))


def amount(metric: str, value: float, *, sign: bool = False) -> str:
    """Returns a value of a metric with its unit, such as '23.10 dB', or its name: '0.8310 SSIM'.

    Args:
        metric: name from `metrics.METRICS`.
        value: the value.
        sign: whether a positive value has a '+'.
    """
    found = METRICS[metric]
    return f"{found.text(value, sign=sign)} {found.unit or found.heading}"


def pairs_text(evaluation: Evaluation) -> str:
    """Returns a short description of the test set, with the first digits of its hash."""
    facts, number = evaluation.settings["testset"], len(evaluation.names)
    only = f", only the first {number} of its {facts['pairs']} pairs"
    return (
        f"test set {facts['sha256'][:12]} (recipe {facts['recipe']}, seed {facts['seed']}"
        f"{only if number < facts['pairs'] else ''})"
    )


def code_rows(evaluation: Evaluation) -> list[list[str]]:
    """Returns the metrics of codes of the prediction, and below it their baselines; [] for none."""
    if not evaluation.codes:
        return []
    baselines = evaluation.baselines()
    predicted = [METRICS[name].text(v.mean()) for name, v in evaluation.codes.items()]
    known = [
        METRICS[name].text(baselines[name][1]) if name in baselines else ""
        for name in evaluation.codes
    ]
    return [["predicted", *predicted], ["known frequencies only", *known]]


def usage_rows(evaluation: Evaluation) -> list[list[str]]:
    """Returns rows of (whose, perplexity, used codes, dead codes, share of the commonest)."""
    return [
        [
            whose,
            f"{usage['perplexity']:.1f}",
            f"{usage['used']}",
            f"{usage['dead']}",
            f"{usage['commonest_share']:.1%}",
        ]
        for whose, usage in evaluation.usage().items()
    ]


def usage_heads(evaluation: Evaluation) -> list[str]:
    """Returns the heading of each column of `usage_rows`."""
    size = len(next(iter(evaluation.code_counts.values())))
    return [f"codebook of {size}", "perplexity", "used", "dead", "commonest"]


def plain_text(evaluation: Evaluation) -> str:
    """Returns the means of an evaluation as text for a terminal."""
    height, width = evaluation.settings["image_size"]
    number = len(evaluation.names)
    head = f"{number} image{'s' * (number != 1)} of {height}x{width} px"
    if "testset" in evaluation.settings:
        head += f" of {pairs_text(evaluation)}"
    elif "seed" in evaluation.settings:
        head += f", degraded with seed {evaluation.settings['seed']}"
    if evaluation.settings.get("skipped"):
        head += f"; skipped {evaluation.settings['skipped']} unreadable ones"
    if "testset" in evaluation.settings:
        head += f"\nSHA-256 of the test set: {evaluation.settings['testset']['sha256']}"
    shown = [METRICS[name] for name in evaluation.metrics]
    lines = [["", *(metric.title for metric in shown)]]
    lines += [
        [label(row), *(m.text(v) for m, v in zip(shown, values.values(), strict=True))]
        for row, values in evaluation.means().items()
    ]
    blocks = [head, _aligned(lines)]
    if evaluation.gain is not None:
        blocks.append(_gain(evaluation))
    if rows := code_rows(evaluation):
        titles = (METRICS[name].title for name in evaluation.codes)
        blocks.append(_aligned([["codes", *titles], *rows]))
    if evaluation.code_counts:
        blocks.append(_aligned([usage_heads(evaluation), *usage_rows(evaluation)]))
    return "\n\n".join(blocks)


def _gain(evaluation: Evaluation) -> str:
    gain, metric = evaluation.gain, evaluation.ranking
    worst = int(gain.argmin())
    return (
        f"gain at {label(evaluation.best_row)}: {amount(metric, gain.mean(), sign=True)}; "
        f"{(gain > 0).sum()} of {len(gain)} images gain; "
        f"worst {amount(metric, gain[worst], sign=True)} ({_printable(evaluation.names[worst])})"
    )


def _printable(name: str) -> str:
    """Drops control characters from a file name; they could rewrite a terminal's lines."""
    return "".join(c if c.isprintable() else "?" for c in name)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Aligns columns two spaces apart: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    first = max(widths[0], 24)
    return "\n".join(
        "  ".join(
            [row[0].ljust(first), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )
