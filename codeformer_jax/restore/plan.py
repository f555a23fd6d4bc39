"""Which picture is restored into which file, settled before anything is loaded or written."""

import dataclasses
import os
import pathlib
from collections.abc import Collection, Iterable, Iterator, Sequence

from codeformer_jax.data.images import SUFFIXES
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
    """One picture to restore and the file that its result is written to."""

    source: pathlib.Path
    target: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that a call will do.

    Attributes:
        jobs: in the order of the inputs, folders sorted by name.
        skipped: targets that exist already and are left alone.
        unreadable: folders that could not be listed.
    """

    jobs: tuple[Job, ...]
    skipped: tuple[pathlib.Path, ...]
    unreadable: tuple[Failure, ...]


def plan_files(
    inputs: Sequence[str | os.PathLike],
    output_dir: str | os.PathLike,
    *,
    force: bool = False,
    skip_existing: bool = False,
    recursive: bool = True,
    suffix: str = "",
    file_format: str = "png",
    limit: int | None = None,
) -> Plan:
    """Pairs pictures with the files to write; reads and writes no picture.

    A file goes to `output_dir/STEM + suffix.FORMAT`; a folder's pictures (known image suffixes,
    names that do not start with a dot) go there under the same sub-folders. An output folder inside
    an input folder is not searched.

    Args:
        inputs: files and folders.
        output_dir: folder of the results; it need not exist.
        force: existing targets are written over.
        skip_existing: existing targets are left alone, and the others restored.
        recursive: folders are searched with their sub-folders.
        suffix: put behind the stem, such as '_restored'.
        file_format: 'png', 'jpg' or 'webp'.
        limit: at most so many jobs.

    Raises:
        RestoreError: no picture found; targets that exist (without `force` and `skip_existing`),
            collide, or are inputs; an output folder that is a file or an input folder.
    """
    output_dir = pathlib.Path(output_dir)
    if file_format not in FORMATS:
        raise RestoreError(f"format is '{file_format}'; expected one of {', '.join(FORMATS)}")
    if os.path.basename(suffix) != suffix:
        raise RestoreError(f"suffix is '{suffix}'; it must not hold a path separator")
    if limit is not None and limit < 1:
        raise RestoreError(f"limit is {limit}; expected at least 1")
    _check_output(output_dir, inputs)

    unreadable: list[Failure] = []
    ending = f"{suffix}.{file_format}"
    jobs: dict[Job, None] = {}
    for source, relative in _find(inputs, output_dir, recursive, unreadable):
        jobs[Job(source, output_dir / relative.parent / (relative.stem + ending))] = None
    if not jobs:
        listing = f"; {unreadable[0].path}: {unreadable[0].reason}" if unreadable else ""
        raise RestoreError(
            f"no image found in {', '.join(map(_quoted, inputs)) or 'nothing'}{listing}; expected "
            f"image files, or folders with {', '.join(SUFFIXES)}"
        )
    _check_targets(jobs)
    existing = {job: None for job in jobs if os.path.lexists(job.target)}
    chosen = [job for job in jobs if not (skip_existing and job in existing)][:limit]
    _check_existing(existing, () if force or skip_existing else chosen)
    skipped = tuple(job.target for job in existing) if skip_existing else ()
    return Plan(tuple(chosen), skipped, tuple(unreadable))


def _check_existing(existing: Collection[Job], kept: Sequence[Job]):
    """Raises where folders stand in the place of results, or results of `kept` exist."""
    if folders := [job.target for job in existing if job.target.is_dir()]:
        raise RestoreError(f"a folder stands where a result must go:{_listing(folders)}")
    if clashes := [job.target for job in kept if job in existing]:
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
        other = by_target.setdefault(job.target.resolve(), job)
        if other.source.resolve() != job.source.resolve():
            raise RestoreError(
                f"'{other.source}' and '{job.source}' would both be written to '{job.target}'; "
                "rename one, or restore them into different output folders"
            )
        if job.target.resolve() in sources:
            raise RestoreError(
                f"the result of '{job.source}' would replace the input "
                f"'{sources[job.target.resolve()]}'; give another output folder or a suffix"
            )


def _find(
    inputs: Iterable[str | os.PathLike],
    output_dir: pathlib.Path,
    recursive: bool,
    unreadable: list[Failure],
) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """Yields (file, its path below the output folder)."""

    def report(error: OSError):
        unreadable.append(Failure(pathlib.Path(error.filename), error.strerror or str(error)))

    for given in map(pathlib.Path, inputs):
        if not os.path.lexists(given):
            unreadable.append(Failure(given, "no such file or folder"))
            continue
        if not given.is_dir():
            yield given, pathlib.Path(given.name)
            continue
        for folder, folders, names in os.walk(given, onerror=report):
            here = pathlib.Path(folder)
            folders[:] = sorted(
                name
                for name in (folders if recursive else ())
                if not name.startswith(".") and (here / name).resolve() != output_dir.resolve()
            )
            for name in sorted(names):
                path = here / name
                if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                    yield path, path.relative_to(given)


def _quoted(path: str | os.PathLike) -> str:
    return f"'{os.fspath(path)}'"


def _listing(paths: Sequence[pathlib.Path]) -> str:
    more = f"\n  and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
    return "".join(f"\n  {path}" for path in paths[:_LISTED]) + more
