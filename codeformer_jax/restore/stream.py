"""Pictures on their way through the network.

They are read ahead and written in threads; the crops of several share a batch.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import tqdm

from codeformer_jax.data.images import UnreadableImage
from codeformer_jax.restore.fit import Fitted, as_dtype
from codeformer_jax.restore.jobs import Failure, Job
from codeformer_jax.restore.restore_options import RestoreError, RestoreOptions
from codeformer_jax.restore.restorer import NOT_FINITE, RestoredBatch, Restorer
from codeformer_jax.restore.samples import sample_batch
from codeformer_jax.restore.scores import Scorer
from codeformer_jax.system import storage
from codeformer_jax.system.storage import Path
from codeformer_jax.system.workers import usable_cores

_THREADS = 4
NO_MEMORY = "the picture does not fit into memory"


@dataclasses.dataclass(frozen=True)
class FaceResult:
    """A restored crop, and the bits of its codes if they are scored."""

    pixels: np.ndarray
    bits: np.ndarray | None = None


Results = Sequence[Sequence[FaceResult | None]]


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """A picture that has been read.

    Attributes:
        crops: its faces, fitted into the network's square; empty if nothing is to be restored.
        write: writes the results, given as [samples][crops], and returns remarks.
        numbers: numbers of the faces in a photograph; empty for a picture that is its only crop.
        notes: remarks for the summary.
    """

    crops: tuple[Fitted, ...]
    write: Callable[[Results], Iterable[str]]
    numbers: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


class Network:
    """The network, with sampling and scores, as a function of a batch of crops.

    Args:
        restorer, scorer: the network and the prior; None scores nothing.
        options: only network and sampling options are read.
        size: crops per batch.
    """

    def __init__(
        self, restorer: Restorer, scorer: Scorer | None, options: RestoreOptions, size: int
    ):
        self._restorer, self._scorer, self._options, self.size = restorer, scorer, options, size

    def __call__(self, batch: Sequence[Fitted], names: Sequence[str]) -> Results:
        """Restores a batch.

        Args:
            batch: 1 to `size` crops.
            names: their names.

        Returns:
            The results [samples][crops]; None in place of one that is not finite.

        Raises:
            RestoreError: if the network fails.
        """
        try:
            made = self._restored(batch, names)
            bits = [
                self._scorer.bits(batch, x.indices, self.size)
                if self._scorer
                else [None] * len(batch)
                for x in made
            ]
        # Whatever the network raises, these crops have no result; the next may have one.
        except Exception as error:
            advice = "; try a smaller batch size" if "RESOURCE_EXHAUSTED" in str(error) else ""
            raise RestoreError(f"the network failed: {describe_error(error)}{advice}") from error
        return [
            [
                # One picture with 16 bits makes the whole batch float32.
                FaceResult(as_dtype(pixels, crop.pixels.dtype), cost) if finite else None
                for pixels, finite, cost, crop in zip(x.images, x.finite, costs, batch, strict=True)
            ]
            for x, costs in zip(made, bits, strict=True)
        ]

    def _restored(self, batch: Sequence[Fitted], names: Sequence[str]) -> list[RestoredBatch]:
        options = self._options
        arguments = {"w": options.w, "adain": options.adain, "batch_size": self.size}
        if not options.samples:
            codes = self._scorer is not None
            return [self._restorer.restore_batch(batch, **arguments, codes=codes)]
        return sample_batch(
            self._restorer,
            batch,
            names,
            number=options.samples,
            seed=options.seed or 0,
            temperature=1.0 if options.temperature is None else options.temperature,
            **arguments,
        )


@dataclasses.dataclass(eq=False)
class _Pending:
    """A picture whose crops are on their way.

    Attributes:
        results: for each crop its samples; None while it waits.
    """

    job: Job
    reading: Reading
    results: list[Sequence[FaceResult] | None]

    def name(self, index: int) -> str:
        """Returns the name of a crop, from which samples are seeded."""
        numbers = self.reading.numbers
        return f"{self.job.name}/{numbers[index]}" if numbers else self.job.name


class Stream:
    """The pictures of a plan on their way through the network.

    Args:
        read: reads a picture and cuts its faces; raises ValueError, such as UnreadableImage.
        network: restores crops; None if no picture has any.
        samples: results of each picture; None is one.

    Attributes:
        outcomes: job -> the paths written, or the failure.
        notes: remark -> the pictures that it applies to.
    """

    def __init__(
        self, read: Callable[[Job], Reading], network: Network | None, samples: int | None = None
    ):
        self._read, self._network, self._samples = read, network, samples or 1
        self._size = network.size if network else 1
        self.outcomes: dict[Job, tuple[Path, ...] | Failure] = {}
        self.notes: dict[str, list[Path]] = {}

    def __call__(self, jobs: Sequence[Job]) -> None:
        """Restores a batch while the next pictures are read and the ones before are written."""
        ahead, coming = min(max(2, self._size), _THREADS), iter(jobs)
        reads: collections.deque = collections.deque()
        crops: collections.deque[tuple[_Pending, int]] = collections.deque()
        writes: collections.deque[concurrent.futures.Future] = collections.deque()
        with (
            tqdm.tqdm(total=len(jobs), unit="image", disable=None) as bar,
            concurrent.futures.ThreadPoolExecutor(min(_THREADS, usable_cores())) as threads,
        ):

            def read_ahead() -> None:
                for job in itertools.islice(coming, ahead - len(reads)):
                    reads.append((job, threads.submit(self._try, self._read, job, job)))

            def write(pending: _Pending) -> None:
                writes.append(threads.submit(self._write, pending))
                # Each one holds a picture.
                while len(writes) > ahead:
                    writes.popleft().result()

            try:
                read_ahead()
                while reads or crops:
                    while reads and len(crops) < self._size:
                        job, reading = reads.popleft()
                        pending = self._received(job, reading.result())
                        read_ahead()
                        if pending and pending.results:
                            crops.extend((pending, i) for i in range(len(pending.results)))
                        elif pending:
                            write(pending)
                    batch = [crops.popleft() for _ in range(min(self._size, len(crops)))]
                    for pending in self._restore(batch):
                        write(pending)
                    bar.update(len(self.outcomes) - bar.n)
                while writes:
                    writes.popleft().result()
                bar.update(len(self.outcomes) - bar.n)
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _received(self, job: Job, reading: Reading | None) -> _Pending | None:
        if reading is None:
            return None
        self._note(job, reading.notes)
        return _Pending(job, reading, [None] * len(reading.crops))

    def _restore(self, batch: list[tuple[_Pending, int]]) -> list[_Pending]:
        """Restores crops and returns the pictures that are complete with them."""
        # Skips crops of pictures that have failed already.
        batch = [(pending, i) for pending, i in batch if pending.job not in self.outcomes]
        if not batch:
            return []
        fitted = [pending.reading.crops[i] for pending, i in batch]
        names = [pending.name(i) for pending, i in batch]
        pictures = list(dict.fromkeys(pending for pending, _ in batch))
        try:
            results = self._network(fitted, names)
        except RestoreError as error:
            for pending in pictures:
                self.outcomes[pending.job] = Failure(pending.job.source, str(error))
            return []
        for (pending, i), *samples in zip(batch, *results, strict=True):
            pending.results[i] = samples
            if not all(samples):
                numbers = pending.reading.numbers
                face = f"face {numbers[i]}: " if numbers else ""
                self.outcomes[pending.job] = Failure(pending.job.source, face + NOT_FINITE)
        return [p for p in pictures if p.job not in self.outcomes and None not in p.results]

    def _write(self, pending: _Pending) -> None:
        job, results = pending.job, pending.results
        by_sample = [[crop[i] for crop in results] for i in range(self._samples)]
        remarks = self._try(pending.reading.write, by_sample, job)
        if remarks is not None:
            self._note(job, remarks)
            self.outcomes[job] = job.results

    def _try(self, function: Callable, argument: object, job: Job) -> object:
        """Returns function(argument), or None after noting why the job has failed."""
        try:
            return function(argument)
        except UnreadableImage as error:
            reason = error.reason
        except ValueError as error:  # RestoreError, and those of the face models.
            reason = str(error)
        # Whatever else fails on this picture, the others are restored.
        except Exception as error:
            memory = isinstance(error, MemoryError) or "Insufficient memory" in str(error)
            reason = NO_MEMORY if memory else describe_error(error)
        self.outcomes[job] = Failure(job.source, reason)
        return None

    def _note(self, job: Job, remarks: Iterable[str]) -> None:
        for remark in remarks:
            self.notes.setdefault(remark, []).append(job.source)


def describe_error(error: Exception) -> str:
    """Returns an error in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextlib.contextmanager
def writing(path: Path, force: bool) -> Iterator[None]:
    """Turns any failure to write a file into a RestoreError that names it.

    Args:
        path: the file.
        force: replace a file that was created after the plan was made.
    """
    try:
        # Another program, or a file system that ignores case, may have made it meanwhile.
        if not force and storage.lexists(path):
            raise FileExistsError(None, "it was created meanwhile; pass --force to replace it")
        yield
    except OSError as error:
        raise RestoreError(f"cannot write '{path}': {describe_error(error)}") from error
