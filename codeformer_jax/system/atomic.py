"""Files and folders that appear whole or not at all."""

import contextlib
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


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
    mode = stat.S_IMODE(temporary.stat().st_mode)
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors puts a private file in its place.
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


def keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Removes lines from a file with one JSON object per line.

    It also removes a line that is not JSON: a killed process was writing it.

    Args:
        path: the file; nothing happens if it does not exist.
        keep: whether an entry stays.

    Returns:
        The entries that stay.
    """
    if not path.exists():
        return []
    kept = []
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if keep(entry):
            kept.append((line, entry))
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line, _ in kept))
    return [entry for _, entry in kept]
