"""Comparison of two traces: rows per layer, the first that differs, and why."""

import dataclasses
import math
import os
from typing import Any

import numpy as np

from codeformer_jax.compare import sources, text
from codeformer_jax.compare.match import pair
from codeformer_jax.compare.rows import Flip, Row, compare_pair, find_flips
from codeformer_jax.compare.suspects import Suspect, try_suspects
from codeformer_jax.compare.trace import Entry, Trace, TraceError, load
from codeformer_jax.system.atomic import atomic_path

TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Comparison of two traces.

    Attributes:
        rows: one per pair of entries, in the execution order of the first trace.
        only_a, only_b: names without a counterpart.
        made_by: {what: value} of each trace: framework, device, dtype, call, inputs and weights.
        tolerance: largest relative L2 difference that agrees.
        notes: differences of inputs or weights that `force` allowed, and of the calls.
        flips: codes that differ, smallest margin first.
        suspects: explanations of the first difference that were tried, best first.
        untried: why there are no suspects, or ''.
        layers: the layer of the first difference with its settings, in each trace.
    """

    rows: tuple[Row, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    made_by: tuple[Any, Any]
    tolerance: float
    notes: tuple[str, ...] = ()
    flips: tuple[Flip, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    untried: str = ""
    layers: tuple[str, str] = ("", "")

    @property
    def agrees(self) -> bool:
        """Whether every row is within the tolerance and all values are finite."""
        return self.first_nonfinite is None and all(row.agrees for row in self.rows)

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
        """The row with the largest difference, without gradients that count as zero."""
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
        return text.table([row for row in self.rows if not (only_differences and row.agrees)])

    def summary(self) -> str:
        """Returns the verdict in a few lines."""
        lines = [f"note: {note}" for note in self.notes]
        if row := self.first_nonfinite:
            lines.append(
                f"first layer with infinities or NaN: {text.named(row)} "
                f"({row.nonfinite[0]} values in A, {row.nonfinite[1]} in B)"
            )
        if row := self.first_difference:
            last = self.last_agreement
            lines += [
                f"first layer that differs: {text.named(row)}, {text.amount(row)}",
                f"last layer that agrees: {text.named(last) if last else 'none'}",
            ]
            for suspect in self.suspects:
                lines.append(f"  {'-> ' if suspect.vanishes else '   '}{suspect}")
            if self.untried:
                lines.append(f"no suspect: {self.untried}")
        differ = sum(not row.agrees for row in self.rows)
        lines += text.flip_lines(self.flips)
        for label, names in (("A", self.only_a), ("B", self.only_b)):
            if names:
                shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
                lines.append(f"only in {label}: {len(names)} entries ({shown})")
        worst = self.worst
        lines.append(
            f"{len(self.rows)} entries compared, {differ} beyond {self.tolerance:g}; the largest "
            f"difference is {text.amount(worst)}, of {text.named(worst)}"
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
            temporary.write_text(self.html(), "utf-8")


def compare(
    a: Trace | str | os.PathLike,
    b: Trace | str | os.PathLike,
    *,
    tolerance: float = TOLERANCE,
    force: bool = False,
    suspects: bool = True,
    load_workdir: sources.LoadWorkdir | None = None,
) -> Comparison:
    """Compares two traces.

    Args:
        a, b: traces or their files. The second is the reference of relative differences.
        tolerance: largest relative L2 difference that agrees. Codes must be identical.
        force: compares traces of different inputs or weights too.
        suspects: tries to explain the first difference. This computes single layers again, and
            needs a trace of a Linen module, made in this process or from files that still exist.
        load_workdir: `checkpoints.trained.load_trained`, for suspects of a training run's traces.

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
    with np.errstate(all="ignore"):  # Differences of infinities.
        rows = tuple(compare_pair(p, tolerance, scales.get(p.theirs.kind, 0.0)) for p in pairs)
    margins = {e.name: e.array for t in (b, a) for e in t.entries if e.kind == "margin"}
    codes = [found for found in pairs if found.ours.kind == "code"]
    flips = [flip for found in codes for flip in find_flips(found, margins)]
    flips.sort(key=lambda flip: (math.isnan(flip.margin), flip.margin))
    comparison = Comparison(
        rows=rows,
        only_a=tuple(map(text.label, only_a)),
        only_b=tuple(map(text.label, only_b)),
        made_by=(text.described(a), text.described(b)),
        tolerance=tolerance,
        notes=(*problems, *differing_calls(a, b)),
        flips=tuple(flips),
    )
    if comparison.first_difference is None:
        return comparison
    return _explained(comparison, a, b, pairs, suspects, load_workdir)


def _explained(comparison, a, b, pairs, suspects, load_workdir) -> Comparison:
    """Returns the comparison with the layers of the first difference and the suspects."""
    row = comparison.first_difference
    first = pairs[comparison.rows.index(row)]
    comparison = dataclasses.replace(comparison, layers=(first.ours.layer, first.theirs.layer))
    if not suspects:
        return comparison
    if row.kind not in ("activation", "buffer"):
        return dataclasses.replace(comparison, untried=f"a {row.kind} has none")
    try:
        a, b = _rerunnable(a, b, load_workdir)
        found = try_suspects(a, b, first, row.relative_l2, comparison.tolerance)
    except TraceError as error:
        return dataclasses.replace(comparison, untried=str(error))
    untried = "" if found else "none of them explains it"
    return dataclasses.replace(comparison, suspects=tuple(found), untried=untried)


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
    """Returns one line each for inputs and weights that differ.

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
            a_says, b_says = (
                f"{side[first].get('dtype', '')} with digest {side[first]['digest']}"
                for side in (ours, theirs)
            )
            found.append(
                f"{what} differ: {len(differ)} of {len(both)} have other values, first "
                f"{first!r} ({a_says} in A, {b_says} in B)"
            )
    return found


def differing_calls(a: Trace, b: Trace) -> list[str]:
    """Returns one line for keyword arguments that two traces were called with, if they differ."""
    both = [name for name in a.call if name in b.call and a.call[name] != b.call[name]]
    words = [f"{name}={a.call[name]} in A and {b.call[name]} in B" for name in both]
    return [f"the calls differ: {', '.join(words)}"] if words else []


def _rerunnable(
    a: Trace, b: Trace, load_workdir: sources.LoadWorkdir | None
) -> tuple[Trace, Trace]:
    """Returns both traces, at least one of which can be computed again."""
    try:
        return sources.restored(a, load_workdir), b
    except TraceError as error:
        of_a = error
    try:
        return a, sources.restored(b, load_workdir)
    except TraceError as of_b:
        raise TraceError(f"of A, {of_a}; of B, {of_b}") from of_b


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
