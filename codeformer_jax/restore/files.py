"""Files and folders of photographs and aligned faces, restored."""

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence

from codeformer_jax.data.folder import describe_others
from codeformer_jax.restore import embedded
from codeformer_jax.restore.aligned import AlignedFaces
from codeformer_jax.restore.jobs import Failure, Plan, plan_files
from codeformer_jax.restore.photo import PhotoTools
from codeformer_jax.restore.photo_files import Photographs
from codeformer_jax.restore.photo_options import PREVIEW_SUFFIX, PhotoOptions
from codeformer_jax.restore.restore_options import RestoreError, RestoreOptions
from codeformer_jax.restore.restorer import Restorer
from codeformer_jax.restore.scores import Scorer, Scores
from codeformer_jax.restore.stream import Network, Stream
from codeformer_jax.system.storage import Path

# A preview is one PNG file, whatever the results would be.
_PREVIEWS = {"file_format": "png", "samples": None}


@dataclasses.dataclass(frozen=True)
class RestoreSummary:
    """Report on a restoration of files; `str` gives it as text.

    Attributes:
        written: result files, in the order of the inputs.
        failed: inputs without a result.
        skipped: existing results that were kept.
        seconds: from the first read to the last write.
        others: files in the folders that are not pictures.
        notes: remark -> the pictures that it applies to.
        samples: results of each picture.
        scores: mean scores as text; empty without a prior.
        done: what was done with the images, in one word.
    """

    written: tuple[Path, ...]
    failed: tuple[Failure, ...]
    skipped: tuple[Path, ...]
    seconds: float
    others: tuple[Path, ...] = ()
    notes: Mapping[str, tuple[Path, ...]] = dataclasses.field(default_factory=dict)
    samples: int = 1
    scores: str = ""
    done: str = "restored"

    def __str__(self) -> str:
        done = len(self.written) // self.samples
        text = f"{done} of {done + len(self.failed)} images {self.done} in {self.seconds:.1f} s"
        if self.samples > 1:
            text += f", {self.samples} times each"
        if self.skipped:
            text += f"; {len(self.skipped)} existing results were kept"
        lines = [text, self.scores] if self.scores else [text]
        for note, paths in self.notes.items():
            images = (
                f"{len(paths)} images ('{paths[0]}', ...)" if len(paths) > 1 else f"'{paths[0]}'"
            )
            lines.append(f"{images}: {note}")
        if self.others:
            lines.append(f"left out {describe_others(self.others)}")
        return "\n".join(lines)


def restore_files(
    inputs: Sequence[str | os.PathLike],
    output_dir: str | os.PathLike,
    options: RestoreOptions | None = None,
    photo: PhotoOptions | None = None,
    *,
    restorer: Restorer | None = None,
    scorer: Scorer | None = None,
) -> RestoreSummary:
    """Restores files and folders of photographs or of aligned faces.

    A file that cannot be read, restored or written is reported in the summary, and the others
    are restored. Each file is written whole or not at all. Terminals show a progress bar.

    Args:
        inputs: files and folders; see `plan_files`.
        output_dir: folder of the results; see `plan_files`.
        options: default `RestoreOptions()`.
        photo: how photographs are restored; None takes every picture as an aligned face.
        restorer: the network; default the one of `options.checkpoint`, or the embedded one.
        scorer: the prior that scores results; default the one of `options.score`, or none.

    Returns:
        A report.

    Raises:
        RestoreError: before anything is written: see `plan_files`, `Restorer.load`, `Scorer.load`
            and `read_scores`.
        ValueError, FileNotFoundError: see `Restorer.load`, `Scorer.load` and `PhotoTools.load`.
        OSError: if the output folder cannot be made.
    """
    options = options or RestoreOptions()
    start, scored = time.monotonic(), scorer is not None or options.score is not None
    photo = _photographs(photo, scored)
    preview = photo is not None and photo.dry_run
    if preview:
        options = dataclasses.replace(options, suffix=options.suffix + PREVIEW_SUFFIX, **_PREVIEWS)
    plan = plan_files(inputs, output_dir, options, scores=scored, records=photo is not None)
    tools = PhotoTools.load(photo) if photo else None
    if restorer is None and not preview:
        restorer = _load(options)
        options = dataclasses.replace(options, checkpoint=options.checkpoint or embedded.NAME)
    if restorer is not None and options.w is None:
        options = dataclasses.replace(options, w=restorer.w)
    if (options.samples or scored) and not hasattr(restorer.module, "codebook_size"):
        raise RestoreError("samples and score need a network with codes; this one has none")
    if scorer is None and options.score is not None:
        scorer = Scorer.load(options.score, restorer, teacher=options.score_teacher)
    with Scores(plan, scorer, options.force) as scores:
        for folder in {job.results[0].parent for job in plan.jobs}:
            folder.mkdir(parents=True, exist_ok=True)
        read = AlignedFaces(restorer, options, scorer, scores, plan.skipped)
        if tools:
            read = Photographs(tools, restorer, options, plan.skipped, read)
        stream = Stream(read, _network(plan, photo, restorer, scorer, options), options.samples)
        stream(plan.jobs)
    summary = _summary(plan, stream, time.monotonic() - start)
    done = "previewed" if preview else "restored"
    samples = options.samples or 1
    return dataclasses.replace(summary, samples=samples, scores=scores.summary(), done=done)


def _summary(plan: Plan, stream: Stream, seconds: float) -> RestoreSummary:
    ordered = [stream.outcomes[job] for job in plan.jobs]
    return RestoreSummary(
        written=tuple(path for paths in ordered if isinstance(paths, tuple) for path in paths),
        failed=plan.unreadable + tuple(x for x in ordered if isinstance(x, Failure)),
        skipped=plan.skipped,
        seconds=seconds,
        others=plan.others,
        notes={note: tuple(paths) for note, paths in stream.notes.items()},
    )


def _photographs(photo: PhotoOptions | None, scored: bool) -> PhotoOptions | None:
    """Returns the options of photographs; None if every picture is an aligned face."""
    if photo is None:
        return None
    if scored and photo.aligned == "no":
        raise RestoreError("score is for aligned faces; photographs have no map of codes")
    if not scored and photo.aligned != "yes":
        return photo
    if unused := photo.changed():
        raise RestoreError(
            f"{', '.join(unused)}: for photographs only, but "
            f"{'score' if scored else 'aligned'} takes every picture as an aligned face"
        )
    return None


def _network(
    plan: Plan,
    photo: PhotoOptions | None,
    restorer: Restorer | None,
    scorer: Scorer | None,
    options: RestoreOptions,
) -> Network | None:
    """Returns the network over batches, sized by the crops that the plan may hold."""
    if restorer is None:
        return None
    crops = len(plan.jobs) * (photo.max_faces if photo else 1)
    return Network(restorer, scorer, options, restorer.batch_for(crops, options.batch_size))


def _load(options: RestoreOptions) -> Restorer:
    return Restorer.load(
        options.checkpoint,
        which=options.which,
        batch_size=options.batch_size,
        keep_gray=options.keep_gray,
        keep_known=options.keep_known,
    )
