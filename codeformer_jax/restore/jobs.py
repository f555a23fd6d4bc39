"""Which picture is restored into which file, settled before anything is loaded or written."""

import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Collection, Iterable, Iterator, Sequence

from codeformer_jax.data.folder import describe_others
from codeformer_jax.data.images import (
    READ_SUFFIXES,
    UNREAD_SUFFIXES,
    UnreadableImage,
    has_picture_suffix,
    image_size,
    is_picture,
)
from codeformer_jax.restore.errors import RestoreError

FORMATS = ("png", "jpg", "webp")
_LISTED = 10


@dataclasses.dataclass(frozen=True)
class Failure:
    """An input that was not restored, and why."""

    path: pathlib.Path
    reason: str


@dataclasses.dataclass(frozen=True)
class Job:
    """One picture to restore and the files that come of it.

    Attributes:
        source: the picture.
        results: restorations of it.
        maps: heat maps of the results, one each, or none.
        name: path below the output folder without suffixes, by which samples are drawn.
    """

    source: pathlib.Path
    results: tuple[pathlib.Path, ...]
    maps: tuple[pathlib.Path, ...]
    name: str

    @property
    def target(self) -> pathlib.Path:
        """The first result."""
        return self.results[0]

    @property
    def files(self) -> tuple[pathlib.Path, ...]:
        """All that is written of it."""
        return self.results + self.maps


@dataclasses.dataclass(frozen=True)
class FileOptions:
    """Which files are read and written.

    Attributes:
        force: existing targets are written over.
        skip_existing: existing targets are left alone, and the others restored.
        recursive: folders are searched with their sub-folders.
        suffix: put behind the stem, such as '_restored'.
        file_format: 'png', 'jpg' or 'webp'.
        limit: at most so many pictures.
        max_megapixels: largest picture that is read; see `read_image`.

    Raises:
        RestoreError: at construction, for values that cannot be meant.
    """

    force: bool = False
    skip_existing: bool = False
    recursive: bool = True
    suffix: str = ""
    file_format: str = "png"
    limit: int | None = None
    max_megapixels: float | None = None

    def __post_init__(self):
        if self.file_format not in FORMATS:
            raise RestoreError(
                f"format is '{self.file_format}'; expected one of {', '.join(FORMATS)}"
            )
        if os.path.basename(self.suffix) != self.suffix:
            raise RestoreError(f"suffix is '{self.suffix}'; it must not hold a path separator")
        if self.limit is not None and self.limit < 1:
            raise RestoreError(f"limit is {self.limit}; expected at least 1")
        if self.max_megapixels is not None and not 0 < self.max_megapixels < math.inf:
            raise RestoreError(
                f"max megapixels is {self.max_megapixels}; expected more than 0, and finite"
            )


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that a call will do.

    Attributes:
        jobs: in the order of the inputs, folders sorted by name.
        skipped: files that exist already and are left alone.
        unreadable: folders that could not be listed, and their pictures that nothing here reads.
        others: files of the folders that are not pictures.
        folder: of the results.
        options: those of the call.
    """

    jobs: tuple[Job, ...]
    skipped: tuple[pathlib.Path, ...]
    unreadable: tuple[Failure, ...]
    others: tuple[pathlib.Path, ...]
    folder: pathlib.Path
    options: FileOptions

    @functools.cached_property
    def kept(self) -> frozenset[pathlib.Path]:
        """`skipped`, to look paths up in."""
        return frozenset(self.skipped)


def plan_files(
    inputs: Sequence[str | os.PathLike],
    output_dir: str | os.PathLike,
    options: FileOptions,
    *,
    samples: int = 0,
    scores: bool = False,
) -> Plan:
    """Pairs pictures with the files to write; decodes and writes no picture.

    A file goes to `output_dir/STEM + suffix.FORMAT`; a folder's pictures (by their suffix or
    content; names that do not start with a dot) go there under the same sub-folders, also linked
    ones. An output folder inside an input folder is not searched.

    Args:
        inputs: files and folders.
        output_dir: folder of the results; it need not exist.
        options: see there.
        samples: so many results of each picture, STEM + suffix + '_1', '_2', ...; 0 is one as it
            is called above.
        scores: a heat map of each result, its name with '_score' behind it and '.png'.

    Raises:
        RestoreError: no picture found; targets that exist (without `force` and `skip_existing`),
            collide, or are inputs; an output folder that is a file or an input folder.
    """
    output_dir = pathlib.Path(output_dir)
    _check_output(output_dir, inputs)

    unreadable: list[Failure] = []
    others: list[pathlib.Path] = []
    endings = [f"{options.suffix}_{number}" for number in range(1, samples + 1)]
    jobs: dict[Job, None] = {}
    for source, relative in _find(inputs, output_dir, options, unreadable, others):
        name = relative.with_suffix("") if has_picture_suffix(relative) else relative
        stems = [f"{name}{ending}" for ending in endings or [options.suffix]]
        results = tuple(output_dir / f"{stem}.{options.file_format}" for stem in stems)
        maps = tuple(output_dir / f"{stem}_score.png" for stem in stems)
        jobs[Job(source, results, maps if scores else (), name.as_posix())] = None
    if not jobs:
        raise RestoreError(_nothing_found(inputs, unreadable, others))
    _check_targets(jobs)
    existing = {path: None for job in jobs for path in job.files if os.path.lexists(path)}
    skip = options.skip_existing
    done = {job for job in jobs if skip and existing.keys() >= set(job.files)}
    chosen = [job for job in jobs if job not in done][: options.limit]
    kept = () if options.force or skip else [path for job in chosen for path in job.files]
    _check_existing(existing, kept)
    if skip and samples:
        _check_scored(existing, chosen)
    return Plan(
        jobs=tuple(chosen),
        skipped=tuple(existing) if skip else (),
        unreadable=tuple(unreadable),
        others=tuple(others),
        folder=output_dir,
        options=options,
    )


def _nothing_found(
    inputs: Sequence[str | os.PathLike],
    unreadable: Sequence[Failure],
    others: Sequence[pathlib.Path],
) -> str:
    listing = f"; {describe_others(others)}" if others else ""
    listing += f"; {unreadable[0].path}: {unreadable[0].reason}" if unreadable else ""
    return (
        f"no image found in {', '.join(map(_quoted, inputs)) or 'nothing'}{listing}; expected "
        f"image files, or folders with some ({', '.join(READ_SUFFIXES)})"
    )


def _check_scored(existing: Collection[pathlib.Path], jobs: Sequence[Job]):
    """Raises where a drawn result exists without its score: its codes may have been others."""
    pairs = [pair for job in jobs for pair in zip(job.results, job.maps, strict=False)]
    if alone := [path for path, score in pairs if path in existing and score not in existing]:
        raise RestoreError(
            f"{len(alone)} results exist without a score:{_listing(alone)}\nOther settings would "
            "draw other codes: --force makes them anew, or give another folder as -o"
        )


def _check_existing(existing: Collection[pathlib.Path], kept: Sequence[pathlib.Path]):
    """Raises where folders stand in the place of results, or some of `kept` exist."""
    if folders := [path for path in existing if path.is_dir()]:
        raise RestoreError(f"a folder stands where a result must go:{_listing(folders)}")
    if clashes := [path for path in kept if path in existing]:
        raise RestoreError(
            f"{len(clashes)} of {len(kept)} results exist already:{_listing(clashes)}\n"
            "--force writes over them, --skip-existing restores the others only"
        )


def _check_output(output_dir: pathlib.Path, inputs: Iterable[str | os.PathLike]):
    for path in (output_dir, *output_dir.parents):
        if os.path.lexists(path) and not path.is_dir():
            raise RestoreError(
                f"cannot write into '{output_dir}': '{path}' is a file; give another output folder"
            )
    for path in map(pathlib.Path, inputs):
        if path.is_dir() and path.resolve() == output_dir.resolve():
            raise RestoreError(
                f"the output folder '{output_dir}' is an input folder; give another output folder, "
                "so that results and inputs do not mix"
            )


def _check_targets(jobs: Iterable[Job]):
    sources = {job.source.resolve(): job.source for job in jobs}
    by_target: dict[pathlib.Path, Job] = {}
    for job in jobs:
        for path in job.files:
            other = by_target.setdefault(path.resolve(), job)
            if other.source.resolve() != job.source.resolve():
                raise RestoreError(
                    f"'{other.source}' and '{job.source}' would both be written to '{path}'; "
                    "rename one, or restore them into different output folders"
                )
            if path.resolve() in sources:
                raise RestoreError(
                    f"the result of '{job.source}' would replace the input "
                    f"'{sources[path.resolve()]}'; give another output folder or a suffix"
                )


def _find(
    inputs: Iterable[str | os.PathLike],
    output_dir: pathlib.Path,
    options: FileOptions,
    unreadable: list[Failure],
    others: list[pathlib.Path],
) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """Yields (file, its path below the output folder)."""

    def report(error: OSError):
        unreadable.append(Failure(pathlib.Path(error.filename), error.strerror or str(error)))

    for given in map(pathlib.Path, inputs):
        if not os.path.lexists(given):
            unreadable.append(Failure(given, "no such file or folder"))
            continue
        if not given.is_dir():
            if (reason := _unread(given, options.max_megapixels)) is not None:
                unreadable.append(Failure(given, reason))
            else:
                yield given, pathlib.Path(given.name)
            continue
        seen = {os.path.realpath(output_dir), os.path.realpath(given)}
        for folder, folders, names in os.walk(given, onerror=report, followlinks=True):
            here = pathlib.Path(folder)
            folders[:] = _unseen(here, folders if options.recursive else (), seen)
            for name in sorted(names):
                path = here / name
                if name.startswith("."):
                    continue
                if not is_picture(path):
                    others.append(path)
                elif (reason := _unread(path, options.max_megapixels)) is not None:
                    unreadable.append(Failure(path, reason))
                else:
                    yield path, path.relative_to(given)


def _unseen(here: pathlib.Path, folders: Iterable[str], seen: set[str]) -> list[str]:
    """Sub-folders to search, each once however many links lead to it; adds them to `seen`."""
    chosen = []
    for name in sorted(folders):
        target = os.path.realpath(here / name)
        if not name.startswith(".") and target not in seen:
            seen.add(target)
            chosen.append(name)
    return chosen


def _unread(path: pathlib.Path, max_megapixels: float | None) -> str | None:
    """Returns why a file cannot be read whose suffix says that nothing here reads it.

    Such files are told apart before targets are: cameras write IMG.HEIC beside IMG.JPG.
    """
    if path.suffix.lower() not in UNREAD_SUFFIXES:
        return None
    try:
        image_size(path, max_megapixels)
    except UnreadableImage as error:
        return error.reason
    return None


def _quoted(path: str | os.PathLike) -> str:
    return f"'{os.fspath(path)}'"


def _listing(paths: Sequence[pathlib.Path]) -> str:
    more = f"\n  and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
    return "".join(f"\n  {path}" for path in paths[:_LISTED]) + more
