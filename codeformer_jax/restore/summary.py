"""Report on a restoration of files."""

import dataclasses
import pathlib
from collections.abc import Mapping

from codeformer_jax.data.folder import describe_others
from codeformer_jax.restore.jobs import Failure


@dataclasses.dataclass(frozen=True)
class RestoreSummary:
    """Report on a restoration of files; `str` gives it as text.

    Attributes:
        written: result files, in the order of the inputs.
        failed: inputs without a result; nothing was written for them.
        skipped: existing results that were kept.
        seconds: from the first read to the last write.
        others: files in the folders that are not pictures.
        notes: remark -> the pictures that it applies to.
        samples: results of each picture.
        scores: mean scores as text; empty without a prior.
    """

    written: tuple[pathlib.Path, ...]
    failed: tuple[Failure, ...]
    skipped: tuple[pathlib.Path, ...]
    seconds: float
    others: tuple[pathlib.Path, ...] = ()
    notes: Mapping[str, tuple[pathlib.Path, ...]] = dataclasses.field(default_factory=dict)
    samples: int = 1
    scores: str = ""

    def __str__(self) -> str:
        done = len(self.written) // self.samples
        text = f"{done} of {done + len(self.failed)} images restored in {self.seconds:.1f} s"
        if self.samples > 1:
            text += f", {self.samples} times each"
        if self.skipped:
            text += f"; {len(self.skipped)} existing results were kept"
        lines = [text, self.scores] if self.scores else [text]
        for note, paths in self.notes.items():
            more = ", ..." if len(paths) > 1 else ""
            lines.append(f"{len(paths)} of the images ('{paths[0]}'{more}): {note}")
        if self.others:
            lines.append(f"left out {describe_others(self.others)}")
        return "\n".join(lines)
