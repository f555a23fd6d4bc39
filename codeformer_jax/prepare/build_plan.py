"""The files of a dataset, and the shard that each of them goes into.

The order is that of a hash of the names, in which the validation split comes first: every shard
follows from the listing and the settings alone.
"""

import array
import dataclasses
import hashlib
import itertools
import json
import math
import os
import posixpath
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from codeformer_jax.data.folder import is_hidden, name_hash, visible_files
from codeformer_jax.data.images import READ_SUFFIXES, is_picture
from codeformer_jax.prepare.staging import PrepareError, Staging, to_line
from codeformer_jax.system import storage
from codeformer_jax.system.atomic import atomic_path
from codeformer_jax.system.storage import is_remote

SPLITS = ("train", "validation")
# A reader keeps every shard open, and 1,024 open files are a usual limit.
MAX_SHARDS = 512
MIN_SHARD_IMAGES = 256

_LAYOUT = 2  # Unfinished builds of another layout are not continued.


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings that decide the bytes of a dataset, apart from its files.

    Attributes:
        sources: folders, absolute, or addresses of folders in buckets.
        size: side of the pictures in pixels.
        file_format: one of `examine.FORMATS`.
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

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Prefixes of the names of each source: its folder, or nothing for a single source.

        Raises:
            PrepareError: two sources have the same folder name.
        """
        if len(self.sources) == 1:
            return ("",)
        folders = [epath.Path(source).name for source in self.sources]
        for folder in folders:
            if folders.count(folder) > 1:
                raise PrepareError(
                    f"two sources are called '{folder}' ({_quoted(self.sources)}), so names in the "
                    "dataset would not tell them apart; rename one, or give the folder that holds "
                    "both"
                )
        return tuple(f"{folder}/" for folder in folders)

    def path(self, name: str) -> epath.Path:
        """Returns the file with a name in the dataset."""
        places = zip(self.prefixes, self.sources, strict=True)
        prefix, source = next(place for place in places if name.startswith(place[0]))
        return epath.Path(source) / name.removeprefix(prefix)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The shards of a dataset.

    Attributes:
        settings: what was asked for.
        shards: the names of each shard's files, in order.
        validation_shards: number of shards, the first ones, that are the validation split.
        others: names of files that are not pictures by their suffix or content.
        digest: hash of all names and of what changes when a file does.
    """

    settings: Settings
    shards: tuple[Sequence[str], ...]
    validation_shards: int
    others: Sequence[str]
    digest: str

    @property
    def number(self) -> int:
        """The number of files in all shards."""
        return sum(map(len, self.shards))

    def of_split(self, split: str) -> range:
        """Returns the indices of the shards of 'train' or 'validation'."""
        if split == "validation":
            return range(self.validation_shards)
        return range(self.validation_shards, len(self.shards))


def make_plan(settings: Settings) -> Plan:
    """Lists the sources, and deals their files to shards.

    Raises:
        PrepareError: no images; sources of equal names.
        FileNotFoundError, NotADirectoryError, PermissionError: a source cannot be listed.
    """
    names, others, hashes, digest = [], [], array.array("Q"), hashlib.sha256()
    for prefix, root in zip(settings.prefixes, settings.sources, strict=True):
        for relative, version in _versions(root):
            digest.update(to_line([prefix, relative, version]).encode())
            if is_picture(posixpath.join(root, relative)):
                names.append(prefix + relative)
                # Not of the prefixed name: another source must not move the files of this one.
                hashes.append(name_hash(relative))
            else:
                others.append(prefix + relative)
    if not names:
        raise PrepareError(
            f"no images in {_quoted(settings.sources)}: found {len(others)} other files; expected "
            f"pictures ({', '.join(READ_SUFFIXES)}) in the folder itself or at any depth below it"
        )
    hashes = np.asarray(hashes)
    # As in `in_split`, and without rounding.
    bound = min(math.ceil(settings.validation_fraction * 2**64), 2**64 - 1)
    held = int(np.count_nonzero(hashes < np.uint64(bound)))
    validation = _deal(held, len(names))
    order = np.argsort(hashes, kind="stable")
    ends = np.cumsum([0, *validation, *_deal(len(names) - held, len(names))])
    return Plan(
        settings=settings,
        shards=tuple(
            [names[index] for index in order[start:end]] for start, end in itertools.pairwise(ends)
        ),
        validation_shards=len(validation),
        others=others,
        digest=digest.hexdigest(),
    )


def resume_or_start(staging: Staging, plan: Plan, restart: bool) -> None:
    """Keeps the finished shards of the same plan, and clears what is no build of a plan.

    Args:
        staging: the folder of the build, which remembers its plan.
        plan: what is going to be built.
        restart: clear an unfinished build.

    Raises:
        PrepareError: an unfinished build of other settings or files is in the way.
    """
    wanted = json.loads(to_line(dataclasses.asdict(plan.settings)))
    # A command that was killed after the publication leaves a plan without a dataset.
    unpublished = is_remote(staging.root) or staging.dataset.exists()
    resumes = unpublished and staging.plan.exists() and not restart
    known = json.loads(staging.plan.read_text()) if resumes else {}
    if known.get("layout") != _LAYOUT:
        staging.clear()
        with atomic_path(staging.plan) as path:
            values = {"layout": _LAYOUT, "settings": wanted, "listing": plan.digest}
            path.write_text(to_line(values), encoding="utf-8")
    elif known["settings"] != wanted:
        old = known["settings"]
        changed = [f"{k} was {old[k]} and is {v}" for k, v in wanted.items() if old[k] != v]
        raise PrepareError(
            f"'{staging.root}' holds an unfinished build with other settings: "
            f"{', '.join(changed)}; give the same again to resume it, or --restart to start over"
        )
    elif known["listing"] != plan.digest:
        raise PrepareError(
            f"the files in {_quoted(plan.settings.sources)} have changed since the unfinished "
            f"build in '{staging.root}' began; give --restart to start over"
        )


def _versions(root: str) -> Iterator[tuple[str, str]]:
    """Yields each visible file's name and what changes when the file does, in a fixed order."""
    if is_remote(root):
        yield from _remote_versions(root)
        return
    folder = storage.to_path(root)
    for relative in visible_files(folder):
        try:
            stat = os.stat(folder / relative)
        except OSError as error:  # A dangling link; reading the file will give the reason.
            yield relative, str(error.errno)
        else:
            yield relative, f"{stat.st_size} {stat.st_mtime_ns}"


def _remote_versions(root: str) -> Iterator[tuple[str, str]]:
    folder = storage.to_path(root)
    found = storage.listing(folder)
    if not found and not folder.exists():
        raise FileNotFoundError(f"no image folder '{root}'; give an existing folder")
    for name in sorted(found, key=_as_walked):
        if not is_hidden(name):
            version = hashlib.sha256(repr(sorted(found[name].items())).encode()).hexdigest()
            yield name, version


def _as_walked(name: str) -> list[tuple[bool, str]]:
    """Returns a key that sorts the files of a folder before those of its subfolders."""
    *folders, file = name.split("/")
    return [*((True, folder) for folder in folders), (False, file)]


def _deal(count: int, total: int) -> list[int]:
    """Returns the sizes of the shards for `count` of `total` files, as even as can be."""
    shards = -(-count // max(MIN_SHARD_IMAGES, -(-total // MAX_SHARDS)))
    return [count * (i + 1) // shards - count * i // shards for i in range(shards)]


def _quoted(sources: Sequence[str]) -> str:
    return ", ".join(f"'{source}'" for source in sources)
