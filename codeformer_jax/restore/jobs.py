"""Pairs of pictures and result files, settled before anything is loaded or written."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence

from codeformer_jax.data.folder import describe_others, visible_files
from codeformer_jax.data.images import (
    READ_SUFFIXES,
    UNREAD_SUFFIXES,
    UnreadableImage,
    has_picture_suffix,
    image_size,
    is_picture,
)
from codeformer_jax.restore.restore_options import RestoreError, RestoreOptions
from codeformer_jax.system import storage
from codeformer_jax.system.storage import Path

_LISTED = 10


@dataclasses.dataclass(frozen=True)
class Failure:
    """An input that was not restored, and the reason."""

    path: Path
    reason: str


@dataclasses.dataclass(frozen=True)
class Job:
    """One picture and the files made from it.

    Attributes:
        source: the picture.
        results: restorations, one for each sample.
        maps: heat maps of the results; empty without a prior.
        name: path below the output folder without suffixes, from which samples are seeded.
        records: JSON files beside the results; empty for aligned faces.
    """

    source: Path
    results: tuple[Path, ...]
    maps: tuple[Path, ...]
    name: str
    records: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Results and heat maps."""
        return self.results + self.maps


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that a restoration of files will do.

    Attributes:
        jobs: in the order of the inputs, folders sorted by name.
        folder: folder of the results.
        skipped: existing files that are kept.
        unreadable: inputs that cannot be read.
        others: files in the folders that are not pictures.
    """

    jobs: tuple[Job, ...]
    folder: Path
    skipped: tuple[Path, ...] = ()
    unreadable: tuple[Failure, ...] = ()
    others: tuple[Path, ...] = ()


def plan_files(
    inputs: Sequence[str | os.PathLike],
    output_dir: str | os.PathLike,
    options: RestoreOptions,
    *,
    scores: bool = False,
    records: bool = False,
) -> Plan:
    """Pairs pictures with the files to write; decodes and writes no picture.

    A file goes to `output_dir/STEM + suffix.FORMAT`, samples to `STEM + suffix_1.FORMAT` and so on,
    heat maps to the result's stem with `_score.png`, records with `.json`. Pictures in a folder
    keep their sub-folders. Links are followed; names that start with a dot, and the output folder,
    are not searched.

    Args:
        inputs: files and folders.
        output_dir: folder of the results; it need not exist.
        options: those about files and samples are used.
        scores: whether there is a heat map for each result.
        records: whether there is a record of each result.

    Returns:
        The plan.

    Raises:
        RestoreError: if no picture is found; if results exist (without `force` and
            `skip_existing`) or are inputs; if the output folder is an input.
    """
    output_dir, inputs = storage.to_path(output_dir), [*map(storage.to_path, inputs)]
    _check_output(output_dir, inputs)
    unreadable: list[Failure] = []
    others: list[Path] = []
    numbers = range(1, options.samples + 1) if options.samples else ()
    endings = [f"{options.suffix}_{number}" for number in numbers] or [options.suffix]
    jobs: dict[Job, None] = {}
    for source, relative in _find(inputs, output_dir, options, unreadable, others):
        name = os.path.splitext(relative)[0] if has_picture_suffix(relative) else relative
        stems = [f"{name}{ending}" for ending in endings]
        results = tuple(output_dir / f"{stem}.{options.file_format}" for stem in stems)
        maps = tuple(output_dir / f"{stem}_score.png" for stem in stems) if scores else ()
        notes = tuple(path.with_suffix(".json") for path in results) if records else ()
        jobs[Job(source, results, maps, name, notes)] = None
    if not jobs:
        raise RestoreError(_nothing_found(inputs, others, unreadable))
    _check_replaced(jobs)
    jobs = _without_collisions(jobs, unreadable)
    held = _existing(output_dir, [path for job in jobs for path in job.files + job.records])
    existing = tuple(path for job in jobs for path in job.files if path in held)
    if options.skip_existing:
        chosen = [job for job in jobs if not held >= set(job.files)]
    else:
        chosen = list(jobs)
    chosen = chosen[: options.limit]
    _check_existing(chosen, held, options)
    skipped = existing if options.skip_existing else ()
    return Plan(tuple(chosen), output_dir, skipped, tuple(unreadable), tuple(others))


def _nothing_found(
    inputs: Sequence[Path],
    others: Sequence[Path],
    unreadable: Sequence[Failure],
) -> str:
    given = ", ".join(f"'{path}'" for path in inputs) or "nothing"
    found = [describe_others(others)] if others else []
    found += [f"{failure.path}: {failure.reason}" for failure in unreadable[:1]]
    return (
        f"no image found in {'; '.join([given, *found])}; expected image files, or folders "
        f"with some ({', '.join(READ_SUFFIXES)})"
    )


def _check_output(output_dir: Path, inputs: Iterable[Path]) -> None:
    for path in inputs:
        if path.is_dir() and storage.resolved(path) == storage.resolved(output_dir):
            raise RestoreError(
                f"the output folder '{output_dir}' is an input folder; give another output folder"
            )


def _check_replaced(jobs: Iterable[Job]) -> None:
    """Raises RestoreError if a result would replace an input."""
    sources = {storage.resolved(job.source): job.source for job in jobs}
    for job in jobs:
        for path in job.files + job.records:
            if (target := storage.resolved(path)) in sources:
                raise RestoreError(
                    f"the result of '{job.source}' would replace the input '{sources[target]}'; "
                    "give another output folder or a suffix"
                )


def _without_collisions(jobs: Iterable[Job], failed: list[Failure]) -> list[Job]:
    """Returns the jobs whose files no other picture has; appends the others to `failed`."""
    owners: dict[Path, set[Path]] = {}
    for job in jobs:
        for path in job.files:
            owners.setdefault(storage.resolved(path), set()).add(storage.resolved(job.source))
    alone = []
    for job in jobs:
        rivals = set().union(*(owners[storage.resolved(path)] for path in job.files))
        if others := sorted(rivals - {storage.resolved(job.source)}):
            reason = (
                f"'{others[0]}' would also be written to '{job.results[0]}'; rename one, or "
                "restore them into different output folders"
            )
            failed.append(Failure(job.source, reason))
        else:
            alone.append(job)
    return alone


def _existing(folder: Path, paths: Iterable[Path]) -> set[Path]:
    """Returns those of some paths below a folder that exist, also as links to nothing."""
    if storage.is_remote(folder):  # One request instead of one for each path.
        return set(storage.files(folder)).intersection(paths)
    return {path for path in paths if os.path.lexists(path)}


def _check_existing(jobs: Sequence[Job], existing: set[Path], options: RestoreOptions) -> None:
    """Raises RestoreError if existing files stand in the way of results."""
    if folders := sorted(path for path in existing if path.is_dir()):
        raise RestoreError(f"a folder has the name of a result:{_listing(folders)}")
    files = [path for job in jobs for path in job.files + job.records]
    clashes = [path for path in files if path in existing]
    if clashes and not (options.force or options.skip_existing):
        raise RestoreError(
            f"{len(clashes)} of {len(files)} files exist already:{_listing(clashes)}\n"
            "--force overwrites them, --skip-existing restores the others only"
        )
    if options.skip_existing and options.samples:
        # The codes of an existing sample are unknown: it may have been made with another seed.
        pairs = [pair for job in jobs for pair in zip(job.results, job.maps, strict=False)]
        alone = [path for path, heat in pairs if path in existing and heat not in existing]
        if alone:
            raise RestoreError(
                f"{len(alone)} samples exist without a score:{_listing(alone)}\n"
                "--force replaces them; or give another output folder"
            )


def _listing(paths: Sequence[Path]) -> str:
    more = f"\n  and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
    return "".join(f"\n  {path}" for path in paths[:_LISTED]) + more


def _find(
    inputs: Iterable[Path],
    output_dir: Path,
    options: RestoreOptions,
    unreadable: list[Failure],
    others: list[Path],
) -> Iterator[tuple[Path, str]]:
    """Yields (picture, its name below the output folder); appends the rest to the lists."""

    def report(error: OSError) -> None:
        unreadable.append(Failure(storage.to_path(error.filename), error.strerror or str(error)))

    def readable(path: Path) -> bool:
        # Settled before results are named: cameras write IMG.HEIC beside IMG.JPG.
        if path.suffix.lower() in UNREAD_SUFFIXES:
            try:
                image_size(path, options.max_megapixels)
            except UnreadableImage as error:
                unreadable.append(Failure(path, error.reason))
                return False
        return True

    for given in inputs:
        if not storage.lexists(given):
            unreadable.append(Failure(given, "no such file or folder"))
        elif not given.is_dir():
            if readable(given):
                yield given, given.name
        else:
            for name in visible_files(given, report):
                path = given / name
                if storage.resolved(path).is_relative_to(storage.resolved(output_dir)):
                    continue
                if not is_picture(path):
                    others.append(path)
                elif readable(path):
                    yield path, name
