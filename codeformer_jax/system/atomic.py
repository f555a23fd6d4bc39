"""Files and folders that appear whole or not at all."""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike, *, sync: bool = True) -> Iterator[Path]:
    """Yields an empty file to write to, which replaces `target` when the block succeeds.

    Args:
        target: the file to write. Missing parent folders are made.
        sync: wait until the disk has the content, so that a power cut leaves no empty file.

    Yields:
        A path beside `target`. An exception removes the file and leaves `target` unchanged.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The target's name may have no room for a suffix. Files of `tempfile` would be private.
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        if sync:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(target: str | os.PathLike, *, replace: bool = False) -> Iterator[Path]:
    """Yields an empty folder to fill, which becomes `target` when the block succeeds.

    Args:
        target: the folder to make. Missing parent folders are made.
        replace: whether an existing `target` gives way to the complete folder. Otherwise only an
            empty folder does.

    Yields:
        A path beside `target`. An exception removes the folder and leaves `target` unchanged.

    Raises:
        OSError: at the end, if `target` exists and `replace` is False; `target` is unchanged.
    """
    target = Path(os.path.abspath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"
    ) as folder:
        staged, old = Path(folder, "new"), Path(folder, "old")
        staged.mkdir()  # Its parent is private; this one has the permissions of any new folder.
        yield staged
        try:
            if replace and os.path.lexists(target):
                os.rename(target, old)
            os.rename(staged, target)
        except BaseException:
            if os.path.lexists(old) and not os.path.lexists(target):
                os.rename(old, target)
            raise
