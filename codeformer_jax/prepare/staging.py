"""The folder `OUT.partial` of a build that is not published yet, and files that appear whole.

A shard is done when its notes exist: they are renamed into place last. Paths may be addresses of
buckets (`gs://`, `s3://`); ArrayRecord writes to local files only, which are copied there.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from codeformer_jax.system import storage
from codeformer_jax.system.storage import is_remote
from codeformer_jax.system.workers import exclusive


class PrepareError(ValueError):
    """A dataset that cannot be prepared as asked; the message says why and what to do."""


class Staging:
    """The folder of an unpublished build, `OUT.partial`: beside OUT, so that a rename publishes.

    Attributes:
        out: the place of the dataset.
        root: the folder.
        lock: a file that marks the folder as a build's; it is the first one there and the last.
        replaced: the dataset that was at `out`, between the two renames that publish.
        plan: settings and listing of the build.
        report: `rejected.jsonl`.
        dataset: the folder that is published.
    """

    def __init__(self, out: str | os.PathLike):
        self.out = epath.Path(storage.to_path(out))
        self.root = self.out.with_name(self.out.name + ".partial")
        self.lock = self.root / "lock"
        self.replaced = self.root / "replaced"
        self.plan = self.root / "plan.json"
        self.report = self.root / "rejected.jsonl"
        self.dataset = self.root / "dataset"

    def records(self, shard: int) -> epath.Path:
        return self.root / "shards" / f"{shard:05d}.array_record"

    def notes(self, shard: int) -> epath.Path:
        return self.root / "shards" / f"{shard:05d}.jsonl"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder and keeps a second build of the same dataset away.

        A dataset that a killed build has moved aside goes back to its place. Nothing is locked in
        buckets.

        Raises:
            PrepareError: another process holds the lock, or the folder is not a build's.
        """
        empty = self.root.is_dir() and not any(self.root.iterdir())
        if self.root.exists() and not (empty or self.lock.exists()):
            raise PrepareError(
                f"'{self.root}' exists and is no unfinished build; move it away, or give another "
                "OUT, since the build needs this name"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        if not self.lock.exists():
            self.lock.write_text("")
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
            if self.replaced.exists() and not self.out.exists():
                os.rename(self.replaced, self.out)
            self.remove_temporary()
            yield

    def remove_temporary(self) -> None:
        """Removes the files that killed processes were writing."""
        for path in () if is_remote(self.root) else storage.files(storage.to_path(self.root)):
            if path.name.startswith(".") and path.suffix == ".tmp":
                path.unlink()

    def clear(self) -> None:
        """Removes everything that was built."""
        self._empty()
        for folder in ("shards", self.dataset.name):
            (self.root / folder).mkdir(parents=True, exist_ok=True)

    def remove(self) -> None:
        """Removes the folder."""
        self._empty()
        self.lock.unlink(missing_ok=True)
        if not is_remote(self.root):
            # Another build may have begun there, now that the lock is gone.
            with contextlib.suppress(OSError):
                os.rmdir(self.root)

    def _empty(self) -> None:
        """Removes all but the lock, the plan first: without it nothing else is used again."""
        self.plan.unlink(missing_ok=True)
        # A folder of a bucket exists only while it holds something.
        for path in self.root.iterdir() if self.root.exists() else ():
            if path.name != self.lock.name:
                path.rmtree()


def read_lines(path: epath.Path) -> Iterator[Any]:
    """Yields the values of a file with one JSON value per line."""
    with path.open("r") as file:
        yield from map(json.loads, file)


def to_line(value: Any) -> str:
    """Returns one line of JSON, always the same for the same value; ASCII for any file name."""
    return json.dumps(value, sort_keys=True) + "\n"
