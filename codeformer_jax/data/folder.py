"""A folder of images as a random-access source of square 8-bit RGB pictures."""

import hashlib
import itertools
import logging
import math
import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

from codeformer_jax.data.images import (
    READ_SUFFIXES,
    UnreadableImage,
    image_size,
    is_picture,
    read_image,
    resize_image,
)
from codeformer_jax.system import storage

SPLITS = ("train", "heldout", "all")

_log = logging.getLogger(__name__)
_SCAN_THREADS = 16  # Opening files waits for the disk or network.
_LISTED = 20
_NAMED = 5


class TooManyUnreadable(ValueError):
    """A folder with more unreadable files than `max_unreadable`; the message lists them."""


class ImageFolder:
    """Images below `root`, at any depth, as `{'image': uint8 [size, size, 3], 'name', 'index'}`.

    Pictures are cropped to their centred square and resized. `name` is the path relative to `root`,
    with slashes; the examples are sorted by it. Hidden files and folders are ignored, links are
    followed. Files that are not pictures are left out, with one line in the log.

    Opening the source reads each file's header. A file with a bad header, or with a shorter side
    below `min_size`, is left out. A file that only fails when it is decoded keeps its place and is
    replaced by the next readable one, whose `name` and `index` the example then has. Both kinds are
    logged once by name and together must not exceed `max_unreadable`. Each worker process logs and
    counts what it decodes.

    Args:
        root: the folder. In a bucket each picture is read when it is needed.
        size: side of the pictures in pixels.
        split: 'train', 'heldout' or 'all'. A file's split follows from its name alone, so adding
            files never moves one to the other split.
        heldout_fraction: share of names in 'heldout', 0..1.
        min_size: smallest accepted shorter side in pixels; None is half of `size`, 0 accepts all.
        max_unreadable: None is one in a hundred files, and at least 10.
        max_megapixels: see `read_image`.

    Raises:
        FileNotFoundError, NotADirectoryError: `root` is missing or a file.
        ValueError: no images, a split without images, or an option out of range.
        TooManyUnreadable: too many files cannot be used; also on reading an example.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        size: int,
        split: str = "train",
        *,
        heldout_fraction: float = 0.1,
        min_size: int | None = None,
        max_unreadable: int | None = None,
        max_megapixels: float | None = None,
    ):
        if size < 1:
            raise ValueError(f"size must be at least 1 pixel, got {size}")
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got '{split}'")
        if not 0 <= heldout_fraction <= 1:
            raise ValueError(f"heldout_fraction must be within 0..1, got {heldout_fraction}")
        if max_megapixels is not None and not 0 < max_megapixels < math.inf:
            raise ValueError(
                f"max_megapixels must be above 0, got {max_megapixels}; expected a finite number"
            )
        self.root = storage.to_path(root)
        self.size = size
        self.split = split
        self.max_megapixels = max_megapixels
        self.min_size = size // 2 if min_size is None else min_size
        everything = image_names(self.root)
        names = [name for name in everything if in_split(name, split, heldout_fraction)]
        if not names:
            raise ValueError(
                f"split '{split}' of '{self.root}' is empty: none of its {len(everything)} images "
                f"falls into it with heldout_fraction={heldout_fraction}; add images, raise "
                "data.heldout_fraction, or evaluate on a folder of its own (eval.path)"
            )
        self.max_unreadable = (
            max(10, len(names) // 100) if max_unreadable is None else max_unreadable
        )
        with futures.ThreadPoolExecutor(_SCAN_THREADS) as pool:
            problems = zip(names, pool.map(self._problem, names), strict=True)
            self.skipped = {name: problem for name, problem in problems if problem}
        self.names = tuple(name for name in names if name not in self.skipped)
        self._check_limit()
        for name, problem in self.skipped.items():
            self._warn(name, problem)
        if not self.names:
            raise TooManyUnreadable(self._describe("none of the images can be used"))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if not 0 <= index < len(self.names):
            raise IndexError(f"index {index} is outside 0..{len(self.names) - 1}")
        for offset in range(len(self.names)):
            at = (index + offset) % len(self.names)
            name = self.names[at]
            if name in self.skipped:
                continue
            try:
                pixels = read_image(self.root / name, self.max_megapixels).pixels
            except UnreadableImage as error:
                self._report(name, error.reason)
                continue
            return {"image": resize_image(pixels, self.size), "name": name, "index": at}
        raise TooManyUnreadable(self._describe("no image is left that can be decoded"))

    def __repr__(self) -> str:
        return f"ImageFolder('{self.root}', size={self.size}, split='{self.split}')"

    def listing(self) -> Iterator[str]:
        """Yields length and name of each file, in order.

        Times of change are left out: they differ between copies.
        """
        remote = storage.sizes(self.root) if storage.is_remote(self.root) else {}
        for name in self.names:
            yield f"{remote[name] if remote else os.path.getsize(self.root / name)} {name}"

    def _problem(self, name: str) -> str | None:
        """Returns why a file cannot be used, as far as its header tells, or None."""
        try:
            height, width = image_size(self.root / name, self.max_megapixels)
        except UnreadableImage as error:
            return error.reason
        if min(height, width) >= self.min_size:
            return None
        return (
            f"too small: {width}x{height} pixels (w x h), its shorter side must be at least "
            f"{self.min_size}"
        )

    def _report(self, name: str, reason: str) -> None:
        self.skipped[name] = reason
        self._warn(name, reason)
        self._check_limit()

    def _warn(self, name: str, reason: str) -> None:
        _log.warning("skipped '%s' in '%s': %s", name, self.root, reason)

    def _check_limit(self) -> None:
        if len(self.skipped) > self.max_unreadable:
            raise TooManyUnreadable(
                self._describe(f"more than max_unreadable={self.max_unreadable} files are unusable")
            )

    def _describe(self, what: str) -> str:
        skipped = sorted(self.skipped.items())
        lines = [f"  {name}: {reason}" for name, reason in skipped[:_LISTED]]
        if len(skipped) > _LISTED:
            lines.append(f"  and {len(skipped) - _LISTED} more")
        return "\n".join(
            [
                f"'{self.root}': {what} ({len(skipped)} so far). Repair or remove these files, "
                "lower min_size, or raise max_unreadable:",
                *lines,
            ]
        )


def in_split(name: str, split: str, heldout_fraction: float) -> bool:
    """Returns whether an image belongs to a split; a hash of its name decides.

    Args:
        name: relative path with slashes.
        split: 'train', 'heldout' or 'all'.
        heldout_fraction: share of names in 'heldout', 0..1.
    """
    if split == "all":
        return True
    heldout = name_hash(name) < heldout_fraction * 2**64
    return heldout == (split == "heldout")


def name_hash(name: str) -> int:
    """Returns a 64-bit hash of a name, which must never change.

    It hashes Unicode form C, because file systems store accents differently.
    """
    normal = unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(normal, digest_size=8).digest(), "big")


def image_names(root: storage.Path) -> list[str]:
    """Returns sorted names, relative to `root` with slashes, of the pictures below it.

    A file is a picture by its suffix or by its content. One line of the log names the others. The
    names include pictures that cannot be read here (HEIC, cameras' raw files).

    Raises:
      FileNotFoundError, NotADirectoryError: `root` is missing or a file.
      ValueError: it holds no images.
    """
    files = sorted(visible_files(root))
    with futures.ThreadPoolExecutor(_SCAN_THREADS) as pool:
        pictures = list(pool.map(lambda name: is_picture(root / name), files))
    names = list(itertools.compress(files, pictures))
    others = [name for name, picture in zip(files, pictures, strict=True) if not picture]
    if not names:
        found = f"{len(files)} other files, such as '{files[0]}'" if files else "no files at all"
        raise ValueError(
            f"no images in '{root}': found {found}; expected pictures ({', '.join(READ_SUFFIXES)}) "
            "in the folder itself or at any depth below it"
        )
    if others:
        _log.warning("left out of '%s': %s", root, describe_others(others))
    return names


def describe_others(names: Sequence[str | os.PathLike]) -> str:
    """Returns how many files are not pictures, with the first names."""
    more = ", ..." if len(names) > _NAMED else ""
    first = ", ".join(f"'{os.fspath(name)}'" for name in names[:_NAMED])
    kind = "file that is not a picture" if len(names) == 1 else "files that are not pictures"
    return f"{len(names)} {kind}: {first}{more}"


def visible_files(
    root: storage.Path, onerror: Callable[[OSError], None] | None = None
) -> Iterator[str]:
    """Yields relative names, with slashes, of all files at any depth below `root`.

    Links are followed, hidden files and folders are left out. The order is always the same. A
    folder in a bucket exists while it holds files.

    Raises:
      FileNotFoundError, NotADirectoryError: `root` is missing or a file.
      PermissionError: a folder cannot be listed, unless `onerror` takes the error.
    """
    if not root.exists():
        raise FileNotFoundError(f"no image folder '{root}'; give an existing folder")
    if not root.is_dir():
        raise NotADirectoryError(f"'{root}' is a file; give the folder which holds the images")
    if storage.is_remote(root):
        yield from (name for name in storage.listing(root) if not is_hidden(name))
        return
    seen = {os.path.realpath(root)}
    for folder, subfolders, files in os.walk(
        root, followlinks=True, onerror=onerror or _cannot_list
    ):
        # os.walk descends into what stays in the list. Each folder counts once: links may loop.
        kept = []
        for subfolder in sorted(subfolders):
            target = os.path.realpath(os.path.join(folder, subfolder))
            if not subfolder.startswith(".") and target not in seen:
                seen.add(target)
                kept.append(subfolder)
        subfolders[:] = kept
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        for file in sorted(files):
            if not file.startswith("."):
                yield file if below == "." else f"{below}/{file}"


def is_hidden(name: str) -> bool:
    """Returns whether a file, or a folder above it, has a name that starts with a dot.

    Args:
        name: its name below some folder, with slashes.
    """
    return "/." in f"/{name}"


def _cannot_list(error: OSError) -> None:
    raise type(error)(
        error.errno,
        f"this folder cannot be listed ({error.strerror}); make it readable, or move it away",
        error.filename,
    ) from error
