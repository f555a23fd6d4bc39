"""Files and folders that appear whole or not at all, on disk or in a bucket."""

import contextlib
import errno
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from codeformer_jax.system import storage


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike, *, sync: bool = True) -> Iterator[Path]:
    """Yields an empty file to write to, which replaces `target` when the block succeeds.

    Args:
        target: the file to write. Missing parent folders are made.
        sync: wait until the disk has the content, so that a power cut leaves no empty file.

    Yields:
        A local path: beside `target`, or in the temporary folder if `target` lies in a bucket. An
        exception removes the file and leaves `target` unchanged.
    """
    target = storage.to_path(target)
    if storage.is_remote(target):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder, target.name)
            temporary.touch()
            yield temporary
            storage.upload(temporary, target)
        return
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
def atomic_directory(
    target: str | os.PathLike, *, replace: bool = False, marker: str | None = None
) -> Iterator[Path]:
    """Yields an empty folder to fill, which becomes `target` when the block succeeds.

    Args:
        target: the folder to make. Missing parent folders are made.
        replace: whether an existing `target` gives way to the complete folder. Otherwise only an
            empty folder does.
        marker: the file without which readers refuse the folder. A bucket cannot rename folders:
            there the old marker is removed first, and the new one is uploaded last.

    Yields:
        A local path: beside `target`, or in the temporary folder if `target` lies in a bucket. An
        exception before the end of the block removes the folder and leaves `target` unchanged.

    Raises:
        OSError: at the end, if `target` exists and `replace` is False; `target` is unchanged.
    """
    target = storage.to_path(target)
    if storage.is_remote(target):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            _publish(Path(folder), target, replace, marker)
        return
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


def _publish(folder: Path, target: storage.Path, replace: bool, marker: str | None) -> None:
    """Uploads a folder, its marker last, and removes other files of `target`."""
    if target.exists() and not replace:
        raise FileExistsError(errno.EEXIST, "File exists", str(target))
    if marker is not None:
        storage.remove(target / marker)
    names = [path.relative_to(folder).as_posix() for path in storage.files(folder)]
    for old in storage.files(target):
        if old.relative_to(target).as_posix() not in names:
            storage.remove(old)
    for name in sorted(names, key=lambda name: name == marker):
        storage.upload(folder / name, target / name)


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
