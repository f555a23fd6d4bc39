"""SHA-256 of a checkpoint's files, kept inside it: damage is noticed before it is trained on.

They are written while the checkpoint is still a temporary folder, so a complete one has them.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from codeformer_jax.system.atomic import atomic_path

DIGESTS_FILE = "digests.json"
# Orbax puts the time of completion into it afterwards; nothing is restored from it.
_WRITTEN_LATER = "_CHECKPOINT_METADATA"


def write(folder: Path) -> None:
    """Writes length and SHA-256 of every file under `folder` into `folder`/digests.json."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in (DIGESTS_FILE, _WRITTEN_LATER):
            found[name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    with atomic_path(folder / DIGESTS_FILE) as path:
        path.write_text(json.dumps(found, indent=1) + "\n")


def forget(folder: Path) -> None:
    """Removes the digests, before files of `folder` are changed."""
    (folder / DIGESTS_FILE).unlink(missing_ok=True)


def known(folder: Path) -> bool:
    """Whether `folder` has digests: checkpoints of earlier versions do not."""
    return (folder / DIGESTS_FILE).is_file()


def fault(folder: Path) -> str | None:
    """What is wrong with the files of `folder`, or None where nothing is or can be told."""
    stamp = folder / _WRITTEN_LATER
    if stamp.is_file() and not isinstance(_json(stamp), dict):
        return f"{_WRITTEN_LATER} is not what was written"
    if not known(folder):
        return None
    wanted = _json(folder / DIGESTS_FILE)
    if not isinstance(wanted, dict):
        return f"{DIGESTS_FILE} is not what was written"
    faults = (_fault(folder / name, name, entry) for name, entry in wanted.items())
    return next(filter(None, faults), None)


def scores_spoilt(folder: Path) -> bool:
    """Whether the scores in `folder` are there and cannot be read."""
    path = folder / "metrics" / "metrics"
    return path.is_file() and not isinstance(_json(path), dict)


def _fault(path: Path, name: str, entry: dict[str, Any]) -> str | None:
    try:
        return _difference(path, name, entry)
    except OSError as error:
        return f"{name} cannot be read ({error})"


def _difference(path: Path, name: str, entry: dict[str, Any]) -> str | None:
    if not path.is_file():
        return f"{name} is missing"
    if (length := path.stat().st_size) != entry["bytes"]:
        return f"{name} has {length} bytes, {entry['bytes']} were written"
    if _sha256(path) != entry["sha256"]:
        return f"{name} is not what was written (another SHA-256)"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None
