"""The folder `OUT.partial` of a build that is not published yet, and files that appear whole.

A shard is done when its notes exist: they are renamed into place last. Paths may be addresses of
buckets (`gs://`, `s3://`); ArrayRecord writes to local files only, which are copied there.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import fsspec
from etils import epath

from codeformer_jax.system.atomic import atomic_path
from codeformer_jax.system.workers import exclusive

SPLITS = ("train", "validation")


class PrepareError(ValueError):
    """A dataset cannot be prepared as asked; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Staging:
    """Names of the files in the folder of an unpublished build."""

    root: epath.Path

    @classmethod
    def of(cls, out: str | os.PathLike) -> "Staging":
        """The staging folder of the dataset `out`: beside it, so that a rename publishes."""
        out = epath.Path(out)
        return cls(out.with_name(out.name + ".partial"))

    @property
    def out(self) -> epath.Path:
        """Where the dataset will be."""
        return self.root.with_name(self.root.name.removesuffix(".partial"))

    @property
    def lock(self) -> epath.Path:
        """There from the first to the last moment, in buckets too: by it the folder is ours."""
        return self.root / "lock"

    @property
    def replaced(self) -> epath.Path:
        """A dataset that was at `out`, until another one is there."""
        return self.root / "replaced"

    @property
    def plan(self) -> epath.Path:
        return self.root / "plan.json"

    @property
    def report(self) -> epath.Path:
        return self.root / "rejected.jsonl"

    @property
    def dataset(self) -> epath.Path:
        return self.root / "dataset"

    @property
    def finished(self) -> epath.Path:
        return self.root / "finished.json"

    @property
    def others(self) -> epath.Path:
        return self.root / "names" / "others.jsonl"

    def names(self, shard: int) -> epath.Path:
        return self.root / "names" / f"{shard:05d}.jsonl"

    def records(self, shard: int) -> epath.Path:
        return self.root / "shards" / f"{shard:05d}.array_record"

    def notes(self, shard: int) -> epath.Path:
        return self.root / "shards" / f"{shard:05d}.jsonl"

    def make(self) -> None:
        """Makes the folder; raises PrepareError on a folder of somebody else's."""
        empty = self.root.is_dir() and not any(self.root.iterdir())
        if self.root.exists() and not (empty or self.lock.exists()):
            raise PrepareError(
                f"'{self.root}' exists and is no unfinished build; move it away, or give another "
                "OUT, since the build needs this name"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        if not self.lock.exists():
            self.lock.write_text("")

    def clear(self) -> None:
        """Begins anew; a dataset aside, in whose place no other one has come, goes back there."""
        self._empty()
        for folder in ("names", "shards"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)

    def remove(self) -> None:
        """Removes the folder; what an interruption leaves of it stops no later build."""
        self._empty()
        self.lock.unlink(missing_ok=True)
        if not is_remote(self.root):
            # Unless another build has begun there, now that the lock is gone.
            with contextlib.suppress(OSError):
                os.rmdir(self.root)

    def _empty(self) -> None:
        """Removes all but the lock, the plan first: without it nothing else is used again."""
        if self.replaced.exists() and not self.out.exists():
            os.rename(self.replaced, self.out)
        self.plan.unlink(missing_ok=True)
        # A folder of a bucket is there while it holds something.
        for path in self.root.iterdir() if self.root.exists() else ():
            if path.name != self.lock.name:
                path.rmtree()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps a second build of the same dataset away; the system lifts it when we end.

        Nothing is locked in buckets.

        Raises:
          PrepareError: another process holds the lock.
        """
        if is_remote(self.root):
            yield
            return
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(exclusive(self.lock))
            except BlockingIOError:
                raise PrepareError(
                    f"another process is writing '{self.root}'; wait until it is done, or end it"
                ) from None
            for left in pathlib.Path(self.root).rglob(".*.tmp"):
                left.unlink()
            yield


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is the address of a bucket, such as `gs://faces/train`."""
    return "://" in os.fspath(path)


@contextlib.contextmanager
def new_file(target: epath.Path) -> Iterator[str]:
    """Yields a local path to write to; `target` appears whole, or not at all on an exception."""
    if not is_remote(target):
        with atomic_path(target) as temporary:
            yield os.fspath(temporary)
        return
    with tempfile.TemporaryDirectory() as folder:
        temporary = os.path.join(folder, target.name)
        yield temporary
        epath.Path(temporary).copy(target, overwrite=True)


@contextlib.contextmanager
def local_file(path: epath.Path) -> Iterator[str]:
    """Yields a local path with the contents of `path`: itself, or a copy for the while."""
    if not is_remote(path):
        yield os.fspath(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, path.name)
        path.copy(copy)
        yield copy


def move(source: epath.Path, target: epath.Path) -> None:
    """Renames a file within this machine or within a bucket."""
    if is_remote(source):
        system, path = fsspec.core.url_to_fs(os.fspath(source))
        system.mv(path, os.fspath(target))
    else:
        os.rename(source, target)


def file_size(path: epath.Path) -> int:
    """The size of a file in bytes."""
    # Of a local file not by epath, which fails where its owner has no name.
    return path.stat().length if is_remote(path) else os.path.getsize(path)


def read_lines(path: epath.Path) -> Iterator[Any]:
    """The values of a file with one JSON value per line."""
    with path.open("r") as file:
        for line in file:
            yield json.loads(line)


def to_line(value: Any) -> str:
    """One line of JSON, always the same for the same value; ASCII, so any file name passes."""
    return json.dumps(value, sort_keys=True) + "\n"
