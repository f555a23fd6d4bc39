"""Comparison of two traces: rows per layer, the first that differs, and why."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from codeformer_jax.compare.match import pair
from codeformer_jax.compare.rows import Flip, Row, compare_pair, find_flips
from codeformer_jax.compare.suspects import Suspect, try_suspects
from codeformer_jax.compare.trace import Entry, Trace, TraceError, load
from codeformer_jax.system.atomic import atomic_path

TOLERANCE = 1e-5
_HEADINGS = ("layer", "shape", "rel. L2", "max abs", "at", "cosine", "beyond", "norms")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Comparison of two traces.

    Attributes:
        rows: one per pair of entries, in the execution order of the first trace.
        only_a, only_b: names without a counterpart.
        made_by: what made each trace.
        tolerance: largest relative L2 difference that agrees.
        notes: what differs between the inputs and weights, if they were compared anyway.
        flips: codes that differ, smallest margin first.
        suspects: explanations of the first difference that were tried, best first.
    """

    rows: tuple[Row, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    made_by: tuple[Any, Any]
    tolerance: float
    notes: tuple[str, ...] = ()
    flips: tuple[Flip, ...] = ()
    suspects: tuple[Suspect, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether every row is within the tolerance."""
        return all(row.agrees for row in self.rows)

    @property
    def first_difference(self) -> Row | None:
        """The first row beyond the tolerance, or None."""
        return next((row for row in self.rows if not row.agrees), None)

    @property
    def last_agreement(self) -> Row | None:
        """The last row within the tolerance before the first difference, or None."""
        found = None
        for row in self.rows:
            if not row.agrees:
                break
            found = row
        return found

    @property
    def first_nonfinite(self) -> Row | None:
        """The first row in which either trace has infinities or NaN, or None."""
        return next((row for row in self.rows if any(row.nonfinite)), None)

    @property
    def worst(self) -> Row:
        """The row with the largest relative L2 difference, gradients of zero left out."""
        rows = [row for row in self.rows if not (row.agrees and row.relative_l2 > self.tolerance)]
        return max(rows, key=lambda row: np.nan_to_num(row.relative_l2, nan=np.inf, posinf=np.inf))

    @property
    def explanation(self) -> Suspect | None:
        """The suspect that makes the first difference vanish, or None."""
        return next((suspect for suspect in self.suspects if suspect.vanishes), None)

    def table(self, *, only_differences: bool = False) -> str:
        """Returns the rows as text.

        Args:
            only_differences: leaves out rows that agree.
        """
        rows = [row for row in self.rows if not (only_differences and row.agrees)]
        cells = [_HEADINGS, *(_cells(row) for row in rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(_HEADINGS))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in cells
        )

    def summary(self) -> str:
        """Returns the verdict in a few lines."""
        lines = [f"note: {note}" for note in self.notes]
        if row := self.first_nonfinite:
            lines.append(
                f"first layer with infinities or NaN: {_named(row)} ({row.nonfinite[0]} values in "
                f"A, {row.nonfinite[1]} in B)"
            )
        if row := self.first_difference:
            last = self.last_agreement
            lines += [
                f"first layer that differs: {_named(row)}, {_amount(row)}",
                f"last layer that agrees: {_named(last) if last else 'none'}",
            ]
            for suspect in self.suspects:
                lines.append(f"  {'-> ' if suspect.vanishes else '   '}{suspect}")
        differ = sum(not row.agrees for row in self.rows)
        lines += _flip_lines(self.flips)
        for label, names in (("A", self.only_a), ("B", self.only_b)):
            if names:
                shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
                lines.append(f"only in {label}: {len(names)} entries ({shown})")
        worst = self.worst
        lines.append(
            f"{len(self.rows)} entries compared, {differ} beyond {self.tolerance:g}; the largest "
            f"difference is {_amount(worst)}, of {_named(worst)}"
        )
        return "\n".join(lines)

    def __str__(self) -> str:
        return f"{self.table()}\n\n{self.summary()}"

    def html(self) -> str:
        """Returns a page with the verdict, the growth of the error with depth and the table."""
        from codeformer_jax.compare.report import html_report  # noqa: PLC0415

        return html_report(self)

    def write_html(self, path: str | os.PathLike) -> None:
        """Writes `html()` to a file."""
        with atomic_path(path) as temporary:
            Path(temporary).write_text(self.html(), "utf-8")


def compare(
    a: Trace | str | os.PathLike,
    b: Trace | str | os.PathLike,
    *,
    tolerance: float = TOLERANCE,
    force: bool = False,
    suspects: bool = True,
) -> Comparison:
    """Compares two traces.

    Args:
        a, b: traces or their files. The second is the reference of relative differences.
        tolerance: largest relative L2 difference that agrees. Codes must be identical.
        force: compares traces of different inputs or weights too.
        suspects: tries to explain the first difference. This computes single layers again, and
            needs a trace of a Linen module, made in this process or from files that still exist.

    Returns:
        The comparison.

    Raises:
        TraceError: a file that is no trace, no common entries, or different inputs or weights.
        FileNotFoundError: no such file.
    """
    a, b = (t if isinstance(t, Trace) else load(t) for t in (a, b))
    problems = differing_sources(a, b)
    if problems and not force:
        raise TraceError(
            f"{'; '.join(problems)}; pass --force (force=True) to compare the traces anyway"
        )
    pairs, only_a, only_b = pair(_with_codes(a, b), _with_codes(b, a))
    scales = _scales(b)
    rows = tuple(compare_pair(p, tolerance, scales.get(p.theirs.kind, 0.0)) for p in pairs)
    margins = {e.name: e.array for t in (b, a) for e in t.entries if e.kind == "margin"}
    flips = [
        flip for found in pairs if found.ours.kind == "code" for flip in find_flips(found, margins)
    ]
    comparison = Comparison(
        rows=rows,
        only_a=tuple(entry.name for entry in only_a),
        only_b=tuple(entry.name for entry in only_b),
        made_by=(a.made_by, b.made_by),
        tolerance=tolerance,
        notes=tuple(problems),
        flips=tuple(flips),
    )
    if suspects and comparison.first_difference is not None:
        first = comparison.first_difference
        found = try_suspects(a, b, pairs[rows.index(first)], first.relative_l2, tolerance)
        comparison = dataclasses.replace(comparison, suspects=tuple(found))
    return comparison


def assert_close(
    a: Trace | str | os.PathLike,
    b: Trace | str | os.PathLike,
    tolerance: float = TOLERANCE,
    **options: Any,
) -> None:
    """Raises AssertionError with the differing rows and the verdict unless two traces agree.

    Args:
        a, b, tolerance, options: see `compare`.
    """
    comparison = compare(a, b, tolerance=tolerance, **options)
    if not comparison.agrees:
        raise AssertionError(f"{comparison.summary()}\n\n{comparison.table(only_differences=True)}")


def differing_sources(a: Trace, b: Trace) -> list[str]:
    """Returns a line on the inputs and one on the weights, where two traces have others.

    Args:
        a, b: traces. Weights that only one of them names are not compared.
    """
    found = []
    for what in ("inputs", "weights"):
        ours, theirs = getattr(a, what), getattr(b, what)
        both = [name for name in ours if name in theirs]
        differ = [n for n in both if ours[n]["digest"] != theirs[n]["digest"]]
        if differ:
            first = differ[0]
            found.append(
                f"{what} differ: {len(differ)} of {len(both)} have other values, first "
                f"{first!r} (digest {ours[first]['digest']} in A, {theirs[first]['digest']} in B)"
            )
    return found


def _scales(trace: Trace) -> dict[str, float]:
    """Returns the largest norm of the gradients by activation and by parameter."""
    scales: dict[str, float] = {}
    for entry in trace.entries:
        if "gradient" in entry.kind:
            norm = float(np.linalg.norm(entry.array.reshape(-1)))
            scales[entry.kind] = max(norm, scales.get(entry.kind, 0.0))
    return scales


def _with_codes(trace: Trace, other: Trace) -> Trace:
    """Returns a trace with codes that only `other` has, from the logits that both have."""
    known = {entry.name: entry for entry in trace.entries}
    added = [
        Entry.whole("code", code.name, known[code.argmax_of].array.argmax(-1))
        for code in other.entries
        if code.kind == "code" and code.name not in known and code.argmax_of in known
    ]
    return dataclasses.replace(trace, entries=(*trace.entries, *added))


def _named(row: Row) -> str:
    other = "" if row.other == row.name else f" ({row.other} in B, paired by {row.by})"
    kind = {"activation": "", "code": ""}.get(row.kind, f"{row.kind.replace('_', ' ')} of ")
    return f"{kind}{row.name}{other}"


def _amount(row: Row) -> str:
    if row.kind == "code" or math.isinf(row.relative_l2):
        return row.note or "identical"
    at = f", largest {row.max_abs:.2e} at {list(row.where)}" if row.where else ""
    return f"relative L2 {row.relative_l2:.2e}{at}"


def _cells(row: Row) -> tuple[str, ...]:
    mark = "  " if row.agrees else "! "
    kind = {"activation": "", "code": ""}.get(row.kind, f"{row.kind}: ")
    return (
        f"{mark}{kind}{row.name}",
        "x".join(map(str, row.shape)) or "scalar",
        f"{row.relative_l2:.1e}",
        f"{row.max_abs:.1e}",
        ",".join(map(str, row.where)),
        f"{row.cosine:.7f}",
        f"{100 * row.beyond:.2f} %",
        f"{row.norm_ratio:.7f}",
    )


def _flip_lines(flips: tuple[Flip, ...]) -> list[str]:
    if not flips:
        return []
    lines = [f"{len(flips)} codes differ; by margin over the second best code, smallest first:"]
    for flip in flips[:5]:
        lines.append(
            f"    {flip.name}{list(flip.where)}: {flip.codes[0]} and {flip.codes[1]}, margin "
            f"{flip.margin:.1e}"
        )
    if len(flips) > 5:
        lines.append(f"    ... the largest margin is {flips[-1].margin:.1e}")
    return lines
