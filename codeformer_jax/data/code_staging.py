"""The folder `.OUT.partial` in which codes are written until they are complete.

It has `lock`, `codes` (what will be OUT) and, between the two renames that publish, `old` (what was
OUT): a command that is killed there leaves both, and the next one puts `old` back first.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from codeformer_jax.data.precomputed_codes import (
    DESCRIPTION_FILE,
    CodesError,
    Description,
    read_description,
)
from codeformer_jax.system.atomic import atomic_path
from codeformer_jax.system.workers import exclusive


class Staging:
    """The folder beside `target`, for the process that holds its lock: see `locked`."""

    def __init__(self, target: Path, root: Path):
        self._target, self._root = target, root
        self.codes, self._old = root / "codes", root / "old"

    @classmethod
    @contextlib.contextmanager
    def locked(cls, target: Path) -> Iterator["Staging"]:
        """Makes the folder, keeps other processes away from it and mends what a killed one left.

        The system lifts the lock when this process ends.

        Raises:
            BlockingIOError: another process writes the same codes.
        """
        root = target.with_name(f".{target.name}.partial")
        root.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(exclusive(root / "lock"))
            # Or who held it has just published, and removed the folder with the file.
            except (BlockingIOError, FileNotFoundError):
                raise BlockingIOError(
                    f"another process is writing '{root}' for '{target}'; wait until it is done, "
                    "or end it"
                ) from None
            staging = cls(target, root)
            staging._mend()
            yield staging

    def begin(self, description: Description) -> dict[str, range]:
        """{shard: examples} of what is missing yet; codes of anything else are removed."""
        try:
            usable = read_description(self.codes) == description
        except (FileNotFoundError, CodesError):
            usable = False
        if not usable:
            shutil.rmtree(self.codes, ignore_errors=True)
            self.codes.mkdir(exist_ok=True)
            with atomic_path(self.codes / DESCRIPTION_FILE) as path:
                path.write_text(description.to_json())
        for path in self.codes.iterdir():
            if path.name not in (DESCRIPTION_FILE, *description.shards):
                path.unlink()  # What a killed process was writing.
        return {
            name: part
            for name, part in description.shards.items()
            if not (self.codes / name).exists()
        }

    def publish(self) -> None:
        """Puts the codes in the place of `target` and removes the folder."""
        try:
            if self._target.exists():
                self._target.rename(self._old)
            self.codes.rename(self._target)
        finally:
            self._mend()
        (self._root / "lock").unlink()
        with contextlib.suppress(OSError):  # Another process has just begun.
            self._root.rmdir()

    def _mend(self) -> None:
        if self._old.exists() and not self._target.exists():
            self._old.rename(self._target)
        shutil.rmtree(self._old, ignore_errors=True)
