"""Files and folders of faces restored: read ahead and written in threads, restored in batches."""

import concurrent.futures
import dataclasses
import itertools
import os
import pathlib
import time
from collections.abc import Mapping, Sequence

import numpy as np
import tqdm

from codeformer_jax.data.folder import describe_others
from codeformer_jax.data.images import UnreadableImage, read_image, write_image
from codeformer_jax.restore.fit import Fitted, unfit
from codeformer_jax.restore.heatmap import draw_heatmap
from codeformer_jax.restore.jobs import Failure, Job, Plan, plan_files
from codeformer_jax.restore.restore_options import RestoreError, RestoreOptions
from codeformer_jax.restore.restorer import NOT_FINITE, Restorer
from codeformer_jax.restore.samples import sample_batch
from codeformer_jax.restore.scores import Scorer, Scores
from codeformer_jax.system.workers import usable_cores

DEFAULT_WEIGHTS = pathlib.Path("weights", "codeformer.safetensors")
_THREADS = 4
_URL = "https://github.com/sczhou/CodeFormer/releases/download/v0.1.0/codeformer.pth"
NO_WEIGHTS = f"""\
no weights: there is no '{DEFAULT_WEIGHTS.as_posix()}' here. Fetch and convert the published ones:
  curl -L -o codeformer.pth {_URL}
  codeformer-jax convert codeformer.pth {DEFAULT_WEIGHTS.as_posix()}
(they carry a non-commercial licence), or give --checkpoint a model file or a training workdir."""


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


@dataclasses.dataclass(frozen=True)
class _Result:
    """A restoration, cut to its picture, and the bits of its codes if they are scored."""

    pixels: np.ndarray
    bits: np.ndarray | None


def restore_files(
    inputs: Sequence[str | os.PathLike],
    output_dir: str | os.PathLike,
    options: RestoreOptions | None = None,
    *,
    restorer: Restorer | None = None,
    scorer: Scorer | None = None,
) -> RestoreSummary:
    """Restores files and folders of aligned faces.

    A file that cannot be read, restored or written is reported in the summary, and the others
    are restored. Each file is written whole or not at all. Terminals show a progress bar.

    Args:
        inputs: files and folders; see `plan_files`.
        output_dir: folder of the results; see `plan_files`.
        options: default `RestoreOptions()`.
        restorer: the network; default the one of `options.checkpoint`.
        scorer: the prior that scores results; default the one of `options.score`, or none.

    Returns:
        A report.

    Raises:
        RestoreError: before anything is written: see `plan_files`, `Restorer.load`, `Scorer.load`
            and `read_scores`; also without weights.
        ValueError, FileNotFoundError: see `Restorer.load` and `Scorer.load`.
        OSError: if the output folder cannot be made.
    """
    options = options or RestoreOptions()
    if restorer is None and options.checkpoint is None and not DEFAULT_WEIGHTS.exists():
        raise RestoreError(NO_WEIGHTS)
    start, scored = time.monotonic(), scorer is not None or options.score is not None
    plan = plan_files(inputs, output_dir, options, scores=scored)
    restorer = restorer or _load(options)
    if (options.samples or scored) and not hasattr(restorer.module, "codebook_size"):
        raise RestoreError("samples and score need a network with codes; this one has none")
    if scorer is None and options.score is not None:
        scorer = Scorer.load(options.score, restorer, teacher=options.score_teacher)
    with Scores(plan, scorer, options.force) as scores:
        for folder in {job.results[0].parent for job in plan.jobs}:
            folder.mkdir(parents=True, exist_ok=True)
        run = _Run(plan, options, restorer, scorer, scores)
        run()
    ordered = [run.outcomes[job] for job in plan.jobs]
    return RestoreSummary(
        written=tuple(path for paths in ordered if isinstance(paths, tuple) for path in paths),
        failed=plan.unreadable + tuple(x for x in ordered if isinstance(x, Failure)),
        skipped=plan.skipped,
        seconds=time.monotonic() - start,
        others=plan.others,
        notes={note: tuple(paths) for note, paths in run.notes.items()},
        samples=options.samples or 1,
        scores=scores.summary(),
    )


def _load(options: RestoreOptions) -> Restorer:
    return Restorer.load(
        options.checkpoint or DEFAULT_WEIGHTS,
        which=options.which,
        batch_size=options.batch_size,
        keep_gray=options.keep_gray,
        keep_known=options.keep_known,
    )


class _Run:
    """The pictures of a plan on their way through the network.

    Attributes:
        outcomes: job -> the paths written, or the failure.
        notes: remark -> the pictures that it applies to.
    """

    def __init__(
        self,
        plan: Plan,
        options: RestoreOptions,
        restorer: Restorer,
        scorer: Scorer | None,
        scores: Scores,
    ):
        self._plan, self._options, self._restorer = plan, options, restorer
        self._scorer, self._scores, self._kept = scorer, scores, frozenset(plan.skipped)
        self._size = restorer.batch_for(len(plan.jobs), options.batch_size)
        self.outcomes: dict[Job, tuple[pathlib.Path, ...] | Failure] = {}
        self.notes: dict[str, list[pathlib.Path]] = {}

    def __call__(self) -> None:
        """Restores a batch while the next one is read and the one before is written."""
        jobs = self._plan.jobs
        batches = [jobs[i : i + self._size] for i in range(0, len(jobs), self._size)] + [()]
        with (
            tqdm.tqdm(total=len(jobs), unit="image", disable=None) as bar,
            concurrent.futures.ThreadPoolExecutor(min(_THREADS, usable_cores())) as threads,
        ):
            reads = [threads.submit(self._read, job) for job in batches[0]]
            writes: list[concurrent.futures.Future] = []
            for batch, following in itertools.pairwise(batches):
                pictures = {job: read.result() for job, read in zip(batch, reads, strict=True)}
                reads = [threads.submit(self._read, job) for job in following]
                pictures = {job: picture for job, picture in pictures.items() if picture}
                results = self._restore(pictures)
                for write in writes:
                    write.result()
                writes = [
                    threads.submit(self._write, job, pictures[job], result)
                    for job, result in results.items()
                ]
                bar.update(len(batch))
            for write in writes:
                write.result()

    def _fail(self, job: Job, reason: str) -> None:
        self.outcomes[job] = Failure(job.source, reason)

    def _read(self, job: Job) -> Fitted | None:
        try:
            picture = read_image(job.source, self._options.max_megapixels)
            fitted = self._restorer.fit(picture.pixels)
        except UnreadableImage as error:
            return self._fail(job, error.reason)
        except MemoryError:
            return self._fail(job, "the picture does not fit into memory")
        return dataclasses.replace(fitted, notes=picture.notes + fitted.notes)

    def _restore(self, pictures: dict[Job, Fitted]) -> dict[Job, list[_Result]]:
        """Returns the results of a batch, one for each sample."""
        if not pictures:
            return {}
        for job, fitted in pictures.items():
            for note in fitted.notes:
                self.notes.setdefault(note, []).append(job.source)
        options, batch = self._options, list(pictures.values())
        arguments = {"w": options.w, "adain": options.adain, "batch_size": self._size}
        try:
            if options.samples:
                made = sample_batch(
                    self._restorer,
                    batch,
                    [job.name for job in pictures],
                    number=options.samples,
                    seed=options.seed or 0,
                    temperature=1.0 if options.temperature is None else options.temperature,
                    **arguments,
                )
            else:
                codes = self._scorer is not None
                made = [self._restorer.restore_batch(batch, **arguments, codes=codes)]
            unscored = [None] * len(batch)
            bits = [
                self._scorer.bits(batch, x.indices, self._size) if self._scorer else unscored
                for x in made
            ]
        # Whatever the network raises, these pictures have no result; the next may have one.
        except Exception as error:
            advice = "; try a smaller batch size" if "RESOURCE_EXHAUSTED" in str(error) else ""
            for job in pictures:
                self._fail(job, f"the network failed: {_reason(error)}{advice}")
            return {}
        results = {}
        for index, (job, fitted) in enumerate(pictures.items()):
            if all(batch.finite[index] for batch in made):
                results[job] = [
                    _Result(unfit(batch.images[index], fitted), cost[index])
                    for batch, cost in zip(made, bits, strict=True)
                ]
            else:
                self._fail(job, NOT_FINITE)
        return results

    def _write(self, job: Job, fitted: Fitted, results: list[_Result]) -> None:
        pictures = [(path, x.pixels) for path, x in zip(job.results, results, strict=True)]
        if self._scorer:
            prior = self._scorer.prior
            scale = {"uniform": self._scorer.bits_uniform, "heldout": prior.heldout_bits}
            pictures += [
                (path, draw_heatmap(x.pixels, x.bits, fitted, **scale))
                for path, x in zip(job.maps, results, strict=True)
            ]
        try:
            for path, pixels in pictures:
                if path in self._kept:
                    continue
                # Another program, or a file system that ignores case, may have made it meanwhile.
                if not self._options.force and os.path.lexists(path):
                    raise FileExistsError(None, "it has come to exist meanwhile and was kept")
                write_image(path, pixels, gray=fitted.gray and path in job.results)
        except OSError as error:
            return self._fail(job, f"cannot write '{path}': {_reason(error)}")
        self._scores.add(job, [result.bits for result in results])
        self.outcomes[job] = job.results


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
