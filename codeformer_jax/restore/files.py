"""Restores files: read ahead in threads, restored in batches, written in threads."""

import collections
import concurrent.futures
import dataclasses
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import SupportsFloat

import numpy as np
import tqdm

from codeformer_jax.data.images import UnreadableImage, read_image, write_image
from codeformer_jax.data.system import usable_cores
from codeformer_jax.restore.errors import RestoreError
from codeformer_jax.restore.fit import Fitted, fit, unfit
from codeformer_jax.restore.plan import Failure, Job, Plan, plan_files
from codeformer_jax.restore.restorer import NOT_FINITE, Restorer, check_weight

_THREADS = 4


@dataclasses.dataclass(frozen=True)
class RestoreSummary:
    """What was done.

    Attributes:
        written: result files, in the order of the inputs.
        failed: inputs without a result; nothing was written for them.
        skipped: results that existed and were left alone.
        padded: pictures that were not square.
        seconds: from the first reading to the last writing.
    """

    written: tuple[pathlib.Path, ...]
    failed: tuple[Failure, ...]
    skipped: tuple[pathlib.Path, ...]
    padded: tuple[pathlib.Path, ...]
    seconds: float

    def __str__(self) -> str:
        total = len(self.written) + len(self.failed)
        text = f"{len(self.written)} of {total} images restored in {self.seconds:.1f} s"
        if self.skipped:
            text += f"; {len(self.skipped)} results that existed were kept"
        if self.padded:
            text += (
                f"; {len(self.padded)} were not square and were continued by their edges "
                "(aligned faces are square)"
            )
        return text


def restore_files(
    inputs: Sequence[str | os.PathLike],
    output_dir: str | os.PathLike,
    restorer: Restorer,
    *,
    w: SupportsFloat = 0.5,
    adain: bool = True,
    batch_size: int | None = None,
    force: bool = False,
    skip_existing: bool = False,
    recursive: bool = True,
    suffix: str = "",
    file_format: str = "png",
    limit: int | None = None,
    progress: bool | None = False,
) -> RestoreSummary:
    """Restores files and folders of aligned faces into `output_dir`.

    A file that cannot be read, restored or written is in the summary's `failed`, and the others go
    on; a result is written whole or not at all, and never holds anything but the network's result.

    Args:
        inputs, output_dir, force, skip_existing, recursive, suffix, file_format, limit: see
            `plan_files`.
        restorer, w, adain, batch_size: see `Restorer`.
        progress: a progress bar; None shows it on terminals only.

    Raises:
        RestoreError: before anything is written: see `plan_files`, `check_weight`, and an output
            folder that cannot be written to.
    """
    w = check_weight(w)
    plan = plan_files(
        inputs,
        output_dir,
        force=force,
        skip_existing=skip_existing,
        recursive=recursive,
        suffix=suffix,
        file_format=file_format,
        limit=limit,
    )
    return run_plan(
        plan, restorer, w=w, adain=adain, batch_size=batch_size, force=force, progress=progress
    )


def run_plan(
    plan: Plan,
    restorer: Restorer,
    *,
    w: SupportsFloat,
    adain: bool,
    batch_size: int | None = None,
    force: bool = False,
    progress: bool | None = False,
) -> RestoreSummary:
    """Restores the pictures of a plan; arguments as for `restore_files`."""
    start = time.monotonic()
    size = restorer.batch_for(len(plan.jobs), batch_size)
    make_folders(plan)
    # Every job ends with a path written or a Failure, whichever thread it came from.
    outcomes: dict[Job, pathlib.Path | Failure] = {}
    padded = []
    disable = None if progress is None else not progress
    threads = concurrent.futures.ThreadPoolExecutor(min(_THREADS, usable_cores()))
    with tqdm.tqdm(total=len(plan.jobs), unit="image", disable=disable) as bar:

        def finish(job: Job, outcome: pathlib.Path | Failure):
            outcomes[job] = outcome
            bar.update()

        try:
            writes: collections.deque = collections.deque()
            for batch in _batches(_read_ahead(threads, plan.jobs, restorer, size), size, finish):
                padded += [job.source for job, fitted in batch if fitted.padded]
                for job, result in _restore(restorer, batch, w, adain, size):
                    if isinstance(result, Failure):
                        finish(job, result)
                        continue
                    gray = dict(batch)[job].gray
                    writes.append((job, threads.submit(_write, job, result, gray, force)))
                while len(writes) > 2 * size:
                    job, write = writes.popleft()
                    finish(job, write.result())
            for job, write in writes:
                finish(job, write.result())
        finally:
            threads.shutdown(cancel_futures=True)

    ordered = [outcomes[job] for job in plan.jobs]
    return RestoreSummary(
        written=tuple(x for x in ordered if isinstance(x, pathlib.Path)),
        failed=plan.unreadable + tuple(x for x in ordered if isinstance(x, Failure)),
        skipped=plan.skipped,
        padded=tuple(padded),
        seconds=time.monotonic() - start,
    )


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
    threads: concurrent.futures.Executor, jobs: Sequence[Job], restorer: Restorer, batch_size: int
) -> Iterator[tuple[Job, Fitted | Failure]]:
    reading: collections.deque = collections.deque()
    for job in jobs:
        reading.append((job, threads.submit(_read, job, restorer.image_size)))
        if len(reading) > 2 * batch_size:
            first, read = reading.popleft()
            yield first, read.result()
    for first, read in reading:
        yield first, read.result()


def _read(job: Job, size: int) -> Fitted | Failure:
    try:
        return fit(read_image(job.source).pixels, size)
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
    restorer: Restorer, batch: list[tuple[Job, Fitted]], w: SupportsFloat, adain: bool, size: int
) -> Iterator[tuple[Job, np.ndarray | Failure]]:
    try:
        restored = restorer.restore_batch(
            [fitted for _, fitted in batch], w, adain, batch_size=size
        )
    # Whatever the network raises, these pictures have no result; the next may have one.
    except Exception as error:
        advice = "; try a smaller batch size" if "RESOURCE_EXHAUSTED" in str(error) else ""
        for job, _ in batch:
            yield job, Failure(job.source, f"the network failed: {_reason(error)}{advice}")
        return
    for (job, fitted), image, finite in zip(batch, restored.images, restored.finite, strict=True):
        yield job, unfit(image, fitted) if finite else Failure(job.source, NOT_FINITE)


def _write(job: Job, pixels: np.ndarray, gray: bool, force: bool) -> pathlib.Path | Failure:
    # Another process, or a file system that takes two names for one, may have made it meanwhile.
    if not force and os.path.lexists(job.target):
        return Failure(job.source, f"'{job.target}' has come to exist meanwhile; it was kept")
    try:
        write_image(job.target, pixels, gray=gray)
    except OSError as error:
        return Failure(job.source, f"cannot write '{job.target}': {_reason(error)}")
    return job.target


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
