"""Files and folders that appear whole or not at all."""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `target`; renamed to it on success, removed on an exception.

    Missing parent folders are made. An existing `target` is replaced only by a complete file.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    # Not by tempfile, whose files are private: these get the permissions of any new file.
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(target: str | os.PathLike, *, replace: bool = False) -> Iterator[Path]:
    """Yields an empty folder beside `target`; renamed to it on success, removed on an exception.

    Missing parent folders are made. With `replace` an existing `target` gives way to a complete
    folder; without it only an empty folder does.

    Raises:
        OSError: `target` exists, at the end, without `replace`; nothing of it is changed.
    """
    target = Path(os.path.abspath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"
    ) as folder:
        staged, old = Path(folder, "new"), Path(folder, "old")
        staged.mkdir()  # Unlike its private parent, with the permissions of any new folder.
        yield staged
        try:
            if replace and os.path.lexists(target):
                os.rename(target, old)
            os.rename(staged, target)
        except BaseException:
            if os.path.lexists(old) and not os.path.lexists(target):
                os.rename(old, target)
            raise
