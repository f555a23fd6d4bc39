"""Restores files: read ahead in threads, restored in batches, written in threads."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, SupportsFloat

import numpy as np
import tqdm

from codeformer_jax.data.folder import describe_others
from codeformer_jax.data.images import UnreadableImage, read_image, write_image
from codeformer_jax.restore.errors import RestoreError
from codeformer_jax.restore.fit import Fitted, unfit
from codeformer_jax.restore.heatmap import Scale, draw_heatmap
from codeformer_jax.restore.jobs import Failure, FileOptions, Job, Plan, plan_files
from codeformer_jax.restore.restorer import NOT_FINITE, RestoredBatch, Restorer, check_weight
from codeformer_jax.restore.samples import Samples, sample_batch
from codeformer_jax.restore.score import Scorer
from codeformer_jax.restore.summary import Scores
from codeformer_jax.system.workers import usable_cores

_THREADS = 4


@dataclasses.dataclass(frozen=True)
class RestoreSummary:
    """What was done.

    Attributes:
        written: result files, in the order of the inputs.
        failed: inputs without a result; nothing was written for them.
        skipped: results that existed and were left alone.
        padded: pictures that were not square.
        others: files in the folders that are not pictures.
        notes: remarks on what was changed or left out, with the pictures that each is about.
        seconds: from the first reading to the last writing.
        samples: results of each picture.
        scores: where scores were asked for, what they say and where they are.
    """

    written: tuple[pathlib.Path, ...]
    failed: tuple[Failure, ...]
    skipped: tuple[pathlib.Path, ...]
    padded: tuple[pathlib.Path, ...]
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
            text += f"; {len(self.skipped)} results that existed were kept"
        if self.padded:
            text += (
                f"; {len(self.padded)} were not square and were continued by their edges "
                "(aligned faces are square)"
            )
        lines = [text, self.scores] if self.scores else [text]
        for note, paths in self.notes.items():
            more = ", ..." if len(paths) > 1 else ""
            lines.append(f"{len(paths)} of the images ('{paths[0]}'{more}): {note}")
        if self.others:
            lines.append(f"left out {describe_others(self.others)}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Run:
    """How pictures are restored; see `restore_files`."""

    restorer: Restorer
    w: SupportsFloat
    adain: bool | None
    samples: Samples | None = None
    scorer: Scorer | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """A restoration, cut as its picture, and the bits of its codes where they were asked for."""

    pixels: np.ndarray
    bits: np.ndarray | None


def restore_files(
    inputs: Sequence[str | os.PathLike],
    output_dir: str | os.PathLike,
    restorer: Restorer,
    *,
    w: SupportsFloat = 0.5,
    adain: bool | None = None,
    batch_size: int | None = None,
    samples: Samples | None = None,
    scorer: Scorer | None = None,
    progress: bool | None = False,
    **files: Any,
) -> RestoreSummary:
    """Restores files and folders of aligned faces into `output_dir`.

    A file that cannot be read, restored or written is in the summary's `failed`, and the others go
    on; a result is written whole or not at all, and never holds anything but the network's result.

    Args:
        inputs, output_dir: see `plan_files`.
        restorer, w, adain, batch_size: see `Restorer`.
        samples: draw several restorations of each picture; None takes the likeliest codes.
        scorer: write a heat map of each result, and all scores into scores.json.
        progress: a progress bar; None shows it on terminals only.
        files: fields of `FileOptions`.

    Raises:
        RestoreError: before anything is written: see `FileOptions`, `plan_files`, `check_weight`,
            `read_scores`, and an output folder that cannot be written to.
    """
    run = Run(restorer, check_weight(w), adain, samples, scorer)
    plan = plan_files(
        inputs,
        output_dir,
        FileOptions(**files),
        samples=samples.number if samples else 0,
        scores=scorer is not None,
    )
    return run_plan(plan, run, batch_size=batch_size, progress=progress)


def run_plan(
    plan: Plan,
    run: Run,
    *,
    batch_size: int | None = None,
    progress: bool | None = False,
) -> RestoreSummary:
    """Restores the pictures of a plan; arguments as for `restore_files`."""
    start = time.monotonic()
    size = run.restorer.batch_for(len(plan.jobs), batch_size)
    scores = Scores.begin(plan, run.scorer)
    make_folders(plan)
    # Every job ends with the paths written or a Failure, whichever thread it came from.
    outcomes: dict[Job, tuple[pathlib.Path, ...] | Failure] = {}
    padded: list[pathlib.Path] = []
    notes: dict[str, list[pathlib.Path]] = {}
    disable = None if progress is None else not progress
    threads = concurrent.futures.ThreadPoolExecutor(min(_THREADS, usable_cores()))
    with tqdm.tqdm(total=len(plan.jobs), unit="image", disable=disable) as bar, scores:

        def finish(job: Job, outcome: tuple[pathlib.Path, ...] | Failure):
            outcomes[job] = outcome
            bar.update()

        writes: collections.deque = collections.deque()
        try:
            reads = _read_ahead(threads, plan, run.restorer, size)
            for batch in _batches(reads, size, finish):
                padded += [job.source for job, fitted in batch if fitted.padded]
                _collect_notes(batch, notes)
                for job, results in _restore(run, batch, size):
                    if isinstance(results, Failure):
                        finish(job, results)
                        continue
                    fitted = dict(batch)[job]
                    write = threads.submit(_write, job, results, fitted, run.scorer, plan)
                    writes.append((job, results, write))
                while len(writes) > 2 * size:
                    _finish_write(writes.popleft(), finish, scores)
            while writes:
                _finish_write(writes.popleft(), finish, scores)
        finally:
            threads.shutdown(cancel_futures=True)
            # After an interrupt: what was written nevertheless has its scores, too.
            for waiting in writes:
                if not waiting[-1].cancelled():
                    _finish_write(waiting, finish, scores)

    ordered = [outcomes[job] for job in plan.jobs]
    return RestoreSummary(
        written=tuple(path for x in ordered if not isinstance(x, Failure) for path in x),
        failed=plan.unreadable + tuple(x for x in ordered if isinstance(x, Failure)),
        skipped=plan.skipped,
        padded=tuple(padded),
        seconds=time.monotonic() - start,
        others=plan.others,
        notes={note: tuple(paths) for note, paths in notes.items()},
        samples=run.samples.number if run.samples else 1,
        scores=scores.summary(),
    )


def _collect_notes(
    batch: Sequence[tuple[Job, Fitted]], notes: dict[str, list[pathlib.Path]]
) -> None:
    for job, fitted in batch:
        for note in fitted.notes:
            notes.setdefault(note, []).append(job.source)


def _finish_write(waiting, finish, scores: Scores) -> None:
    job, results, write = waiting
    outcome = write.result()
    if not isinstance(outcome, Failure):
        scores.add(job, [result.bits for result in results])
    finish(job, outcome)


def make_folders(plan: Plan):
    """Makes the folders of the results.

    Raises:
        RestoreError: a folder cannot be made or not be written to.
    """
    for folder in dict.fromkeys(job.target.parent for job in plan.jobs):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RestoreError(f"cannot make the folder '{folder}': {_reason(error)}") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise RestoreError(f"cannot write into the folder '{folder}': permission denied")


def _read_ahead(
    threads: concurrent.futures.Executor, plan: Plan, restorer: Restorer, batch_size: int
) -> Iterator[tuple[Job, Fitted | Failure]]:
    reading: collections.deque = collections.deque()
    for job in plan.jobs:
        read = threads.submit(_read, job, restorer, plan.options.max_megapixels)
        reading.append((job, read))
        if len(reading) > 2 * batch_size:
            first, read = reading.popleft()
            yield first, read.result()
    for first, read in reading:
        yield first, read.result()


def _read(job: Job, restorer: Restorer, max_megapixels: float | None) -> Fitted | Failure:
    try:
        picture = read_image(job.source, max_megapixels)
        fitted = restorer.fit(picture.pixels)
        return dataclasses.replace(fitted, notes=picture.notes + fitted.notes)
    except UnreadableImage as error:
        return Failure(job.source, error.reason)
    except MemoryError:
        return Failure(job.source, "the picture does not fit into memory")


def _batches(reads, size: int, finish) -> Iterator[list[tuple[Job, Fitted]]]:
    batch = []
    for job, read in reads:
        if isinstance(read, Failure):
            finish(job, read)
            continue
        batch.append((job, read))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _restore(
    run: Run, batch: list[tuple[Job, Fitted]], size: int
) -> Iterator[tuple[Job, list[Result] | Failure]]:
    try:
        attempts, bits = _run_network(run, batch, size)
    # Whatever the network raises, these pictures have no result; the next may have one.
    except Exception as error:
        advice = "; try a smaller batch size" if "RESOURCE_EXHAUSTED" in str(error) else ""
        for job, _ in batch:
            yield job, Failure(job.source, f"the network failed: {_reason(error)}{advice}")
        return
    for index, (job, fitted) in enumerate(batch):
        if not all(attempt.finite[index] for attempt in attempts):
            yield job, Failure(job.source, NOT_FINITE)
            continue
        yield (
            job,
            [
                Result(unfit(attempt.images[index], fitted), None if cost is None else cost[index])
                for attempt, cost in zip(attempts, bits, strict=True)
            ],
        )


def _run_network(
    run: Run, batch: list[tuple[Job, Fitted]], size: int
) -> tuple[list[RestoredBatch], list[np.ndarray | None]]:
    """Restorations of a batch, one for each sample, and the bits of their codes."""
    names, pictures = [job.name for job, _ in batch], [fitted for _, fitted in batch]
    if run.samples is not None:
        attempts = sample_batch(
            run.restorer, pictures, names, run.w, run.adain, run.samples, batch_size=size
        )
    else:
        codes = {} if run.scorer is None else {"codes": True}
        attempts = [
            run.restorer.restore_batch(pictures, run.w, run.adain, batch_size=size, **codes)
        ]
    if run.scorer is None:
        return attempts, [None] * len(attempts)
    return attempts, [run.scorer.bits(pictures, x.indices, size) for x in attempts]


def _write(
    job: Job,
    results: list[Result],
    fitted: Fitted,
    scorer: Scorer | None,
    plan: Plan,
) -> tuple[pathlib.Path, ...] | Failure:
    pictures = [(path, result.pixels) for path, result in zip(job.results, results, strict=True)]
    for path, result in zip(job.maps, results, strict=False):
        scale = Scale(scorer.bits_uniform, scorer.prior.heldout_bits)
        pictures.append((path, draw_heatmap(result.pixels, result.bits, fitted, scale)))
    made = []
    force = plan.options.force
    for path, pixels in pictures:
        if path in plan.kept:
            continue
        # Another process, or a file system that takes two names for one, may have made it
        # meanwhile.
        exists = os.path.lexists(path)
        if exists and not force:
            reason = f"'{path}' has come to exist meanwhile; it was kept"
            break
        try:
            write_image(path, pixels, gray=fitted.gray and path in job.results)
        except OSError as error:
            reason = f"cannot write '{path}': {_reason(error)}"
            break
        if not exists:
            made.append(path)
    else:
        return job.results
    # New files of a picture come together; one that replaced another stays.
    for path in made:
        with contextlib.suppress(OSError):
            path.unlink()
    return Failure(job.source, reason)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
