"""Rows, codes and origins of traces in words."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from codeformer_jax.compare.rows import Flip, Row
from codeformer_jax.compare.trace import Entry, Trace

HEADINGS = ("layer", "shape", "rel. L2", "max abs", "at", "cosine", "beyond", "norms")
_SHOWN_FLIPS = 5


def table(rows: Sequence[Row]) -> str:
    """Returns rows under their headings; rows beyond the tolerance start with '!'."""
    lines = [HEADINGS, *((f"{'  ' if r.agrees else '! '}{label(r)}", *numbers(r)) for r in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def label(row: Row | Entry) -> str:
    """Returns the name of a row or entry, after its kind unless it is an activation or a code."""
    return row.name if row.kind in ("activation", "code") else f"{row.kind}: {row.name}"


def numbers(row: Row) -> tuple[str, ...]:
    """Returns the texts of a row under all `HEADINGS` but the first."""

    def text(value: float, form: str) -> str:
        return "" if math.isnan(value) else format(value, form)

    return (
        "x".join(map(str, row.shape)) or "scalar",
        text(row.relative_l2, ".1e"),
        text(row.max_abs, ".1e"),
        ",".join(map(str, row.where)),
        text(row.cosine, ".7f"),
        f"{100 * row.beyond:.2f} %" if not math.isnan(row.beyond) else "",
        text(row.norm_ratio, ".7f"),
    )


def named(row: Row) -> str:
    """Returns a row's name in a sentence, with that of its counterpart if it has another."""
    other = "" if row.other == row.name else f" ({row.other} in B, paired by {row.by})"
    kind = {"activation": "", "code": ""}.get(row.kind, f"{row.kind.replace('_', ' ')} of ")
    return f"{kind}{row.name}{other}"


def amount(row: Row) -> str:
    """Returns a row's difference in a sentence."""
    if row.kind == "code" or row.note.startswith("shapes differ"):
        return row.note or "identical"
    if math.isnan(row.relative_l2):
        return "not finite"
    at = f", largest {row.max_abs:.2e} at {list(row.where)}" if row.where else ""
    if row.norm == 0 and row.distance > 0:
        return f"all zeros in B{at}"
    return f"relative L2 {row.relative_l2:.2e}{at}"


def flip_lines(flips: Sequence[Flip]) -> list[str]:
    """Returns the number of codes that differ and the smallest margins, [] without any."""
    if not flips:
        return []
    lines = [f"{len(flips)} codes differ; by margin over the second best code, smallest first:"]
    for flip in flips[:_SHOWN_FLIPS]:
        lines.append(
            f"    {flip.name}{list(flip.where)}: {flip.codes[0]} and {flip.codes[1]}, margin "
            f"{flip.margin:.1e}"
        )
    if len(flips) > _SHOWN_FLIPS:
        known = [flip.margin for flip in flips if not math.isnan(flip.margin)]
        largest = f"the largest margin is {max(known):.1e}" if known else "margins are unknown"
        lines.append(f"    ... {largest}")
    return lines


def described(trace: Trace) -> dict[str, str]:
    """Returns {what: value} of what made a trace."""
    source = trace.source
    files = {"weights file": source["weights"], "key": source["key"]} if source else {}
    found = {
        "network": trace.network,
        **trace.made_by,
        "call": ", ".join(f"{name}={value}" for name, value in trace.call.items()),
        "gradients of": trace.objective,
        **{f"input {name}": _array(fields) for name, fields in trace.inputs.items()},
        "weights": _weights(trace.weights),
        **files,
    }
    return {what: str(value) for what, value in found.items() if value not in ("", None)}


def _array(fields: Mapping[str, Any]) -> str:
    return f"{fields['dtype']} {list(fields['shape'])}, digest {fields['digest']}"


def _weights(weights: Mapping[str, Any]) -> str:
    values = sum(math.prod(fields["shape"]) for fields in weights.values())
    return f"{len(weights)} arrays, {values / 1e6:.2f} M values" if weights else ""
