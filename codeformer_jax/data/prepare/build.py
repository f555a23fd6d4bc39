"""The work of `codeformer-jax prepare`: folders of pictures in, a checked dataset out."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from etils import epath

from codeformer_jax.data.prepare.examine import FORMATS
from codeformer_jax.data.prepare.plan import Plan, Settings, make_plan
from codeformer_jax.data.prepare.publish import INFO, finish, publish
from codeformer_jax.data.prepare.staging import PrepareError, Staging, is_remote
from codeformer_jax.data.prepare.workers import build_shards

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
    max_rejected: int | None = None,
    workers: int | None = None,
    force: bool = False,
    restart: bool = False,
    beam_args: Sequence[str] | None = None,
) -> Summary:
    """Checks the images below the folders `sources` and writes them as the TFDS dataset `out`.

    Each becomes a record `{'image': [size, size, 3], 'name'}`: upright, RGB, its centred square
    resized with antialiasing. The names are paths below the source, after the source's own folder
    where there are several. Files that cannot be used, and pictures that occur twice, are left out
    and listed in `rejected.jsonl`. The same files and options give the same bytes. Nothing appears
    at `out` before all is done; until then it grows in `OUT.partial`, where the same call goes on
    after an interruption. Folders and `out` may lie in buckets (`gs://`, `s3://`).

    Args:
      sources: folders, searched at any depth as `ImageFolder` does.
      out: folder to make.
      size: side of the pictures in pixels.
      file_format: 'png' or 'webp' (lossless) or 'jpeg' (quality 95).
      min_size: smallest accepted shorter side of a file in pixels; None is half of `size`.
      validation_fraction: share of the names in 'validation', 0..1. A hash of the name below its
        source decides, as for `ImageFolder`, so that adding files never moves one.
      max_rejected: images that may be left out; None is one in a hundred, and at least 10.
      workers: processes; 0 works in this one, None uses all cores.
      force: replace an `out` that is a dataset.
      restart: forget an unfinished build.
      beam_args: options of an Apache Beam pipeline to build the shards by, instead of processes.

    Raises:
      PrepareError: an option out of range, no images, too many left out (`TooManyRejected`), an
        unfinished build of other options or files, or folders that must not be mixed.
      FileExistsError: `out` exists.
      OSError: a folder cannot be read or written, or the disk is full. What is done is kept.
    """
    out = epath.Path(_absolute(out))
    settings = Settings(
        sources=tuple(map(_absolute, sources)),
        size=size,
        file_format=file_format,
        min_size=size // 2 if min_size is None else min_size,
        validation_fraction=validation_fraction,
    )
    _check_options(settings, max_rejected, workers)
    _check_out(settings.sources, out, force)
    return _locked_build(
        settings, out, restart, max_rejected=max_rejected, workers=workers, beam_args=beam_args
    )


def _locked_build(settings: Settings, out: epath.Path, restart: bool, **options: Any) -> Summary:
    """Plans and builds, alone; leaves no staging folder where nothing was begun."""
    staging = Staging.of(out)
    staging.make()
    with staging.locked():
        if restart:
            staging.clear()
        try:
            plan = make_plan(settings, staging)
            return _build(staging, plan, out, **options)
        except OSError as error:
            if not staging.plan.exists():
                raise
            raise OSError(
                f"{error}\nnothing is published; what is done is kept in '{staging.root}': remove "
                "the cause, and give the same command again to go on"
            ) from error
        finally:
            if not staging.plan.exists() and staging.root.exists():
                staging.root.rmtree()


def _build(
    staging: Staging,
    plan: Plan,
    out: epath.Path,
    max_rejected: int | None,
    workers: int | None,
    beam_args: Sequence[str] | None,
) -> Summary:
    if staging.finished.exists() and not staging.dataset.exists():
        # It was published, and only the tidying up was interrupted.
        staging.clear()
        plan = make_plan(plan.settings, staging)
    if not staging.finished.exists():
        if beam_args is None:
            build_shards(staging, plan, workers)
        else:
            from codeformer_jax.data.prepare.beam import build_shards_by_beam  # noqa: PLC0415

            build_shards_by_beam(staging, plan, beam_args)
        finish(staging, plan, max_rejected)
    made = json.loads(staging.finished.read_text())
    publish(staging, out)
    return Summary(out, made["splits"], made["rejected"], made["fingerprint"])


def _absolute(path: StrPath) -> str:
    return os.fspath(path) if is_remote(path) else os.path.abspath(path)


def _check_options(settings: Settings, max_rejected: int | None, workers: int | None) -> None:
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
    for name, value, least in (
        ("size", settings.size, 1),
        ("min size", settings.min_size, 0),
        ("max rejected", max_rejected, 0),
        ("workers", workers, 0),
    ):
        if value is not None and value < least:
            raise PrepareError(f"{name} is {value}; expected at least {least}")


def _check_out(sources: Sequence[str], out: epath.Path, force: bool) -> None:
    target = pathlib.PurePath(os.path.realpath(out) if not is_remote(out) else out)
    for source in sources:
        folder = pathlib.PurePath(os.path.realpath(source) if not is_remote(source) else source)
        if folder == target or folder in target.parents or target in folder.parents:
            raise PrepareError(
                f"OUT '{out}' and the source '{source}' lie within each other; give an OUT beside "
                "it, so that pictures and dataset do not mix"
            )
    complete = (out / INFO).exists()
    if not (complete if is_remote(out) else out.exists()):
        return
    if not force:
        raise FileExistsError(f"'{out}' exists; give another OUT, or --force to replace a dataset")
    if not complete:
        raise PrepareError(
            f"'{out}' is no dataset (it has no {INFO}), so --force does not replace it; move it "
            "away, or give another OUT"
        )
