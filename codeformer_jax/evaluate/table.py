"""The figures of an evaluation as text: labels, number formats, and the table for a terminal."""

from collections.abc import Sequence

from codeformer_jax.evaluate.evaluation import Evaluation

# metric: (heading, decimals)
HEADINGS = {"psnr": ("PSNR (dB)", 2), "ssim": ("SSIM", 4), "lpips": ("LPIPS", 4)}
_LABELS = {
    "input": "degraded input",
    "teacher": "teacher's reconstruction",
    "reconstruction": "reconstruction",
    "truth": "ground truth",
}


def label(row: str) -> str:
    """A row's name for readers: 'w=0.5' -> 'w = 0.5'."""
    return _LABELS.get(row, row.replace("=", " = "))


def short(row: str) -> str:
    """The same, to stand below a picture."""
    return "teacher" if row == "teacher" else label(row)


def figure(metric: str, value: float) -> str:
    """A score with the decimals that its metric is given with."""
    return f"{value:.{HEADINGS[metric][1]}f}"


def pairs_text(evaluation: Evaluation) -> str:
    """The test set in a few words, with the first digits of its hash."""
    facts, number = evaluation.settings["testset"], len(evaluation.names)
    only = f", only the first {number} of its {facts['pairs']} pairs"
    return (
        f"test set {facts['sha256'][:12]} (recipe {facts['recipe']}, seed {facts['seed']}"
        f"{only if number < facts['pairs'] else ''})"
    )


def code_rows(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """(what, accuracy, cross entropy) of the prediction and of its baseline; [] without teacher."""
    means = evaluation.code_means()
    if not means:
        return []
    return [
        ("predicted", f"{means['accuracy']:.1%}", f"{means['cross_entropy']:.3f}"),
        (
            "known frequencies only",
            f"{means['commonest_accuracy']:.1%}",
            f"{means['frequency_cross_entropy']:.3f}",
        ),
    ]


def usage_rows(evaluation: Evaluation) -> list[tuple[str, str, str, str, str]]:
    """(whose, perplexity, used codes, dead codes, share of the commonest code)."""
    return [
        (
            whose,
            f"{usage['perplexity']:.1f}",
            f"{usage['used']}",
            f"{usage['dead']}",
            f"{usage['commonest_share']:.1%}",
        )
        for whose, usage in evaluation.usage().items()
    ]


def plain_text(evaluation: Evaluation) -> str:
    """Returns the means as plain text for a terminal."""
    height, width = evaluation.settings["image_size"]
    number = len(evaluation.names)
    head = f"{number} image{'s' * (number != 1)} of {height}x{width} px"
    if "testset" in evaluation.settings:
        head += f" of {pairs_text(evaluation)}"
    elif "seed" in evaluation.settings:
        head += f", degraded with seed {evaluation.settings['seed']}"
    if evaluation.settings.get("skipped"):
        head += f"; {evaluation.settings['skipped']} unreadable ones left out"
    means = evaluation.means()
    shown = list(next(iter(means.values())))
    lines = [["", *(HEADINGS[metric][0] for metric in shown)]]
    lines += [
        [label(row), *(figure(metric, values[metric]) for metric in shown)]
        for row, values in means.items()
    ]
    if "testset" in evaluation.settings:
        head += f"\nSHA-256 of the test set: {evaluation.settings['testset']['sha256']}"
    blocks = [head, _aligned(lines)]
    if evaluation.gain is not None:
        blocks.append(_gain(evaluation))
    if rows := code_rows(evaluation):
        blocks.append(_aligned([("codes", "accuracy", "cross entropy (nats)"), *rows]))
    if rows := usage_rows(evaluation):
        size = len(next(iter(evaluation.code_counts.values())))
        title = (f"codebook of {size}", "perplexity", "used", "dead", "commonest")
        blocks.append(_aligned([title, *rows]))
    return "\n\n".join(blocks)


def _gain(evaluation: Evaluation) -> str:
    gain, worst = evaluation.gain, int(evaluation.gain.argmin())
    return (
        f"gain at {label(evaluation.best_row)}: {gain.mean():+.2f} dB; "
        f"{(gain > 0).sum()} of {len(gain)} images gain; "
        f"worst {gain[worst]:+.2f} dB ({_printable(evaluation.names[worst])})"
    )


def _printable(name: str) -> str:
    """A file name without control characters, which could rewrite a terminal's lines."""
    return "".join(c if c.isprintable() else "?" for c in name)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    widths[0] = max(widths[0], 24)
    return "\n".join(
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    )
