"""Which files a dataset is made of, and which of them go into which shard.

The order is that of a hash of the names, in which the validation split is a prefix: every shard
follows from the listing and the settings alone, whoever builds it and when.
"""

import array
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, NoReturn

import fsspec
import numpy as np
from etils import epath

from codeformer_jax.data.folder import name_hash, visible_files
from codeformer_jax.data.images import READ_SUFFIXES, has_picture_suffix, is_picture
from codeformer_jax.prepare.staging import (
    PrepareError,
    Staging,
    is_remote,
    new_file,
    read_lines,
    to_line,
)

# A reader keeps every shard open, and 1,024 open files are a usual limit.
MAX_SHARDS = 512
MIN_SHARD_IMAGES = 256

_LAYOUT = 1  # Of the staging folder: an unfinished build of another layout is not continued.


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the bytes of a dataset besides its files.

    Attributes:
      sources: folders, absolute, or addresses of folders in buckets.
      size: side of the pictures in pixels.
      file_format: a key of `examine.FORMATS`.
      min_size: smallest accepted shorter side in pixels.
      validation_fraction: share of the names in the validation split, 0..1.
      max_megapixels: see `read_image`.
    """

    sources: tuple[str, ...]
    size: int
    file_format: str
    min_size: int
    validation_fraction: float
    max_megapixels: float | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """The shards of a dataset.

    Attributes:
      settings: see there.
      listing: SHA-256 of all names, sizes and times of change.
      sizes: number of files of each shard.
      validation_shards: so many shards, the first ones, are the validation split.
      others: number of files that are not pictures by their suffix or content.
    """

    settings: Settings
    listing: str
    sizes: tuple[int, ...]
    validation_shards: int
    others: int

    def shards(self, split: str) -> range:
        """Indices of the shards of 'train' or 'validation'."""
        if split == "validation":
            return range(self.validation_shards)
        return range(self.validation_shards, len(self.sizes))

    def save(self, staging: Staging) -> None:
        with new_file(staging.plan) as path:
            fields = {"layout": _LAYOUT, **dataclasses.asdict(self)}
            pathlib.Path(path).write_text(to_line(fields), encoding="utf-8")

    @classmethod
    def load(cls, staging: Staging) -> "Plan | None":
        """The saved plan, or None where there is none, or one of another layout."""
        if not staging.plan.exists():
            return None
        fields = json.loads(staging.plan.read_text())
        if fields.pop("layout") != _LAYOUT:
            return None
        settings = fields.pop("settings")
        settings["sources"] = tuple(settings["sources"])
        fields["sizes"] = tuple(fields["sizes"])
        return cls(settings=Settings(**settings), **fields)


def files_of_shard(
    staging: Staging, settings: Settings, shard: int
) -> Iterator[tuple[str, epath.Path]]:
    """(name, path) of every file of a shard, in order."""
    prefixes = name_prefixes(settings.sources)
    for source, relative in read_lines(staging.names(shard)):
        yield prefixes[source] + relative, epath.Path(settings.sources[source]) / relative


def make_plan(settings: Settings, staging: Staging) -> Plan:
    """Lists the sources; writes the names of each shard, and then the plan.

    Where the staging folder holds the same plan already, nothing is written.

    Raises:
      PrepareError: no images; sources of equal names; an unfinished build of other settings or
        files is in the way.
      FileNotFoundError, NotADirectoryError, PermissionError: a source cannot be listed.
    """
    name_prefixes(settings.sources)
    previous = Plan.load(staging)
    if previous is not None and previous.settings != settings:
        _raise_other_settings(previous.settings, settings, staging)
    # As large as the names of all files, so not in memory, where the system's folder often lies.
    folder = None if is_remote(staging.root) else os.fspath(staging.root)
    with tempfile.TemporaryFile("w+", encoding="ascii", dir=folder) as spool:
        listed = _list(settings.sources, spool)
        total = len(listed.hashes)
        # As in `in_split`, and without rounding.
        bound = min(math.ceil(settings.validation_fraction * 2**64), 2**64 - 1)
        held = int(np.count_nonzero(listed.hashes < np.uint64(bound)))
        validation = _deal(held, total)
        plan = Plan(
            settings=settings,
            listing=listed.digest,
            sizes=(*validation, *_deal(total - held, total)),
            validation_shards=len(validation),
            others=len(listed.other_offsets),
        )
        if previous == plan:
            return plan
        if previous is not None:
            raise PrepareError(
                f"the files in {_quoted(settings.sources)} have changed since the unfinished build "
                f"in '{staging.root}' began; give --restart to begin anew"
            )
        staging.clear()
        _write_names(plan.sizes, spool, listed, staging)
    plan.save(staging)
    return plan


def name_prefixes(sources: Sequence[str]) -> tuple[str, ...]:
    """What stands before the relative name of a file of each source: its folder, or nothing of one.

    Raises:
      PrepareError: two sources have the same folder name.
    """
    if len(sources) == 1:
        return ("",)
    folders = [epath.Path(source).name for source in sources]
    for folder in folders:
        if folders.count(folder) > 1:
            raise PrepareError(
                f"two sources are called '{folder}' ({_quoted(sources)}), so names in the dataset "
                "would not tell them apart; rename one, or give the folder that holds both"
            )
    return tuple(f"{folder}/" for folder in folders)


@dataclasses.dataclass(frozen=True)
class _Listed:
    hashes: np.ndarray  # uint64, one for each image file.
    offsets: np.ndarray  # int64, where its line begins in the spool.
    other_offsets: np.ndarray  # The same for all other files.
    digest: str


def _list(sources: Sequence[str], spool: IO[str]) -> _Listed:
    """Writes a line for every file of the sources to `spool`: names are too many for memory."""
    hashes, offsets, other_offsets = array.array("Q"), array.array("q"), array.array("q")
    digest, position = hashlib.sha256(), 0
    for source, root in enumerate(sources):
        for relative, version in _versions(root):
            digest.update(to_line([source, relative, version]).encode())
            if _is_picture(root, relative):
                # Not of the prefixed name: another source must not move the files of this one.
                hashes.append(name_hash(relative))
                offsets.append(position)
            else:
                other_offsets.append(position)
            position += spool.write(to_line([source, relative]))
    if not hashes:
        raise PrepareError(
            f"no images in {_quoted(sources)}: found {len(other_offsets)} other files; expected "
            f"pictures ({', '.join(READ_SUFFIXES)}) in the folder itself or at any depth below it"
        )
    return _Listed(
        hashes=np.asarray(hashes),
        offsets=np.asarray(offsets),
        other_offsets=np.asarray(other_offsets),
        digest=digest.hexdigest(),
    )


def _is_picture(root: str, relative: str) -> bool:
    # In a bucket, opening each file costs a request: there the suffix decides.
    if is_remote(root):
        return has_picture_suffix(relative)
    return is_picture(os.path.join(root, relative))


def _versions(root: str) -> Iterator[tuple[str, str]]:
    """(relative name, what changes when the file does) of all visible files, in a fixed order."""
    if is_remote(root):
        yield from _remote_versions(root)
        return
    folder = pathlib.Path(root)
    if not folder.exists():
        raise FileNotFoundError(f"no folder '{root}'; give an existing folder of images")
    if not folder.is_dir():
        raise NotADirectoryError(f"'{root}' is a file; give the folder which holds the images")
    for relative in visible_files(folder):
        try:
            stat = os.stat(folder / relative)
        except OSError as error:  # A dangling link; reading the file will give the reason.
            yield relative, str(error.errno)
        else:
            yield relative, f"{stat.st_size} {stat.st_mtime_ns}"


def _remote_versions(root: str) -> Iterator[tuple[str, str]]:
    system, top = fsspec.core.url_to_fs(root)
    if not system.isdir(top):
        raise FileNotFoundError(f"no folder '{root}'; give an existing folder of images")
    for folder, _, files in system.walk(top, detail=True):
        below = pathlib.PurePosixPath(folder.strip("/")).relative_to(top.strip("/"))
        if any(part.startswith(".") for part in below.parts):
            continue
        for name in sorted(files):
            if name and not name.startswith("."):
                version = hashlib.sha256(repr(sorted(files[name].items())).encode()).hexdigest()
                yield (below / name).as_posix(), version


def _deal(count: int, total: int) -> list[int]:
    """Sizes of the shards that `count` of `total` files make, as even as can be."""
    shards = -(-count // max(MIN_SHARD_IMAGES, -(-total // MAX_SHARDS)))
    return [count * (i + 1) // shards - count * i // shards for i in range(shards)]


def _write_names(sizes: Sequence[int], spool: IO[str], listed: _Listed, staging: Staging) -> None:
    order = np.argsort(listed.hashes, kind="stable")
    ends = np.cumsum(sizes)
    targets = [
        *(
            (staging.names(shard), listed.offsets[order[end - size : end]])
            for shard, (size, end) in enumerate(zip(sizes, ends, strict=True))
        ),
        (staging.others, listed.other_offsets),
    ]
    for target, offsets in targets:
        with new_file(target) as path, open(path, "w", encoding="ascii") as file:
            for offset in offsets.tolist():
                spool.seek(offset)
                file.write(spool.readline())


def _raise_other_settings(previous: Settings, wanted: Settings, staging: Staging) -> NoReturn:
    old, new = dataclasses.asdict(previous), dataclasses.asdict(wanted)
    changed = ", ".join(
        f"{key} was {old[key]} and is {new[key]}" for key in old if old[key] != new[key]
    )
    raise PrepareError(
        f"'{staging.root}' holds an unfinished build with other settings: {changed}; give the same "
        "again to go on with it, or --restart to begin anew"
    )


def _quoted(sources: Sequence[str]) -> str:
    return ", ".join(f"'{source}'" for source in sources)
