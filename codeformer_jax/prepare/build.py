"""The work of `codeformer-jax prepare`: folders of pictures in, a checked dataset out."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath
from tqdm import tqdm

from codeformer_jax.prepare.build_plan import Plan, Settings, make_plan, resume_or_start
from codeformer_jax.prepare.examine import FORMATS
from codeformer_jax.prepare.publish import check_out, finish, publish
from codeformer_jax.prepare.shards import build_shard
from codeformer_jax.prepare.staging import PrepareError, Staging
from codeformer_jax.prepare.workers import run
from codeformer_jax.system import storage
from codeformer_jax.system.storage import is_remote

StrPath = str | os.PathLike


@dataclasses.dataclass(frozen=True)
class Summary:
    """A dataset that was published.

    Attributes:
        out: its folder.
        splits: number of pictures of each split.
        rejected: number of files left out, of each kind.
        fingerprint: SHA-256 of all names and pixels.
    """

    out: epath.Path
    splits: dict[str, int]
    rejected: dict[str, int]
    fingerprint: str

    def __str__(self) -> str:
        splits = " and ".join(f"{count} {split}" for split, count in self.splits.items())
        lines = [f"{self.out}: {splits} images"]
        if self.rejected:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.rejected.items())
            lines.append(f"left out: {kinds}; listed in {self.out / 'rejected.jsonl'}")
        return "\n".join(lines)


def prepare(
    sources: Sequence[StrPath],
    out: StrPath,
    *,
    size: int = 512,
    file_format: str = "png",
    min_size: int | None = None,
    validation_fraction: float = 0.1,
    max_megapixels: float | None = None,
    max_rejected: int | None = None,
    workers: int | None = None,
    force: bool = False,
    restart: bool = False,
    beam_args: Sequence[str] | None = None,
) -> Summary:
    """Writes the images below some folders as a TFDS dataset and describes it.

    Each becomes a record `{'image': [size, size, 3], 'name'}`: upright, RGB, its centred square
    resized with antialiasing. The names are paths below the source, after the source's own folder
    where there are several. `rejected.jsonl` lists files that cannot be used and pictures that
    occur twice. The same files and options give the same bytes. The dataset grows in `OUT.partial`,
    where the same call resumes after an interruption. Paths may be buckets (`gs://`, `s3://`).

    Args:
        sources: folders, searched at any depth as `ImageFolder` does.
        out: folder to make.
        size: side of the pictures in pixels.
        file_format: 'png' or 'webp' (lossless) or 'jpeg' (quality 95).
        min_size: smallest accepted shorter side of a file in pixels; None is half of `size`.
        validation_fraction: share of the names in 'validation', 0..1, as for `ImageFolder`.
        max_megapixels: bound against decompression bombs; None is `PIL.Image.MAX_IMAGE_PIXELS`.
        max_rejected: images that may be left out; None is one in a hundred, and at least 10.
        workers: processes; 0 works in this one, None uses all cores.
        force: replace an `out` that is a dataset.
        restart: discard an unfinished build.
        beam_args: options of an Apache Beam pipeline that builds the shards, instead of processes.

    Raises:
        PrepareError: an option out of range, no images, too many left out (`TooManyRejected`), an
            unfinished build of other options or files, or folders that must not be mixed.
        FileExistsError: `out` exists.
        OSError: a folder cannot be read or written, or the disk is full. What is done is kept.
    """
    out = epath.Path(storage.to_path(_absolute(out), "out"))
    settings = Settings(
        sources=tuple(map(_absolute, sources)),
        size=size,
        file_format=file_format,
        min_size=size // 2 if min_size is None else min_size,
        validation_fraction=validation_fraction,
        max_megapixels=max_megapixels,
    )
    _check_options(settings, out, max_rejected, workers)
    check_out(out, force)
    plan = make_plan(settings)
    with _staging(out, force, restart) as staging:
        resume_or_start(staging, plan, restart)
        made = _build(staging, plan, max_rejected, workers, beam_args)
        publish(staging, force)
    return Summary(out, made["splits"], made["rejected"], made["fingerprint"])


@contextlib.contextmanager
def _staging(out: epath.Path, force: bool, restart: bool) -> Iterator[Staging]:
    """Holds the staging folder until the dataset is published.

    Interruptions and errors tell that it is kept, and how to resume.
    """
    staging = Staging(out)
    with staging.locked():
        check_out(out, force)  # Again: a dataset may have been put back there.
        try:
            yield staging
        except (KeyboardInterrupt, OSError) as error:
            again = ", without --restart," if restart else ""
            kept = (
                f"nothing is published; what is done is kept in '{staging.root}': remove the cause "
                f"of an error, and give the same command again{again} to resume"
            )
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(kept) from None
            raise OSError(f"{error}\n{kept}") from error
        finally:
            staging.remove_temporary()
        try:
            staging.remove()
        except OSError as error:
            raise OSError(
                f"'{out}' is published and complete; '{staging.root}' could not be removed: {error}"
            ) from error


def _build(
    staging: Staging,
    plan: Plan,
    max_rejected: int | None,
    workers: int | None,
    beam_args: Sequence[str] | None,
) -> dict[str, Any]:
    if beam_args is not None:
        from codeformer_jax.prepare.beam import build_shards_by_beam  # noqa: PLC0415

        build_shards_by_beam(staging, plan, beam_args)
        return finish(staging, plan, max_rejected, workers)
    out, jobs = os.fspath(staging.out), []
    for shard, names in enumerate(plan.shards):
        if not staging.notes(shard).exists():
            jobs.append((len(names), (out, plan.settings, shard, names)))
    done = plan.number - sum(images for images, _ in jobs)
    # `disable=None`: no bar if stderr is not a terminal.
    with tqdm(total=plan.number, initial=done, unit=" images", disable=None) as bar:
        run(build_shard, jobs, workers, bar)
    return finish(staging, plan, max_rejected, workers)


def _absolute(path: StrPath) -> str:
    return os.fspath(path) if is_remote(path) else os.path.abspath(path)


def _check_options(
    settings: Settings, out: epath.Path, max_rejected: int | None, workers: int | None
) -> None:
    if not settings.sources:
        raise PrepareError("no source was given; expected at least one folder of images")
    if settings.file_format not in FORMATS:
        raise PrepareError(
            f"format is '{settings.file_format}'; expected one of {', '.join(FORMATS)}"
        )
    if not 0 <= settings.validation_fraction <= 1:
        raise PrepareError(
            f"validation fraction is {settings.validation_fraction}; expected 0 to 1"
        )
    if settings.max_megapixels is not None and not 0 < settings.max_megapixels < math.inf:
        raise PrepareError(
            f"max megapixels is {settings.max_megapixels}; expected more than 0, and finite"
        )
    for name, value, least in (
        ("size", settings.size, 1),
        ("min size", settings.min_size, 0),
        ("max rejected", max_rejected, 0),
        ("workers", workers, 0),
    ):
        if value is not None and value < least:
            raise PrepareError(f"{name} is {value}; expected at least {least}")
    target = storage.resolved(storage.to_path(out))
    for source in settings.sources:
        folder = storage.resolved(storage.to_path(source))
        if folder.is_relative_to(target) or target.is_relative_to(folder):
            raise PrepareError(
                f"OUT '{out}' and the source '{source}' lie within each other; give an OUT beside "
                "it, so that pictures and dataset do not mix"
            )
