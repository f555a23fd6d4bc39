"""SHA-256 digests of a checkpoint's files, which reveal damage before it is trained on.

They are written before the checkpoint counts as complete, so every complete checkpoint has them.
"""

import hashlib
import json
from typing import Any

from codeformer_jax.checkpoints.workdir import saved_steps
from codeformer_jax.system import storage
from codeformer_jax.system.atomic import atomic_path
from codeformer_jax.system.storage import Path

DIGESTS_FILE = "digests.json"
# Orbax adds the time of completion to it afterwards.
_WRITTEN_LATER = "_CHECKPOINT_METADATA"


def write(folder: Path) -> None:
    """Writes length and SHA-256 of every file under `folder` into its digests.json."""
    skipped = (folder / DIGESTS_FILE, folder / _WRITTEN_LATER)
    found = {
        path.relative_to(folder).as_posix(): _digest(path)
        for path in storage.files(folder)
        if path not in skipped
    }
    with atomic_path(folder / DIGESTS_FILE) as path:
        path.write_text(json.dumps(found, indent=1) + "\n")


def fault(folder: Path) -> str | None:
    """Returns what is wrong with the files of a checkpoint, or None.

    Checkpoints of early versions have no digests and count as whole.

    Raises:
        OSError: or another error of its client, if a bucket does not answer.
    """
    path = folder / DIGESTS_FILE
    try:
        wanted = json.loads(path.read_bytes()) if path.exists() else {}
        changed = (name for name, digest in wanted.items() if _digest(folder / name) != digest)
        name = next(changed, None)
    except (OSError, ValueError, AttributeError) as error:
        if storage.is_away(error, folder):
            raise  # A bucket that does not answer has damaged nothing.
        return f"{type(error).__name__}: {error}"
    return name and f"{name} has changed since it was written"


def newest_whole(workdir: Path) -> tuple[int | None, dict[str, str]]:
    """Finds the newest checkpoint without a fault.

    Returns:
        Its step, or None if there is none; and the faults of newer checkpoints, by step.
    """
    faults: dict[str, str] = {}
    for step in reversed(saved_steps(workdir)):
        reason = fault(workdir / "checkpoints" / str(step))
        if reason is None:
            return step, faults
        faults[str(step)] = reason
    return None, faults


def all_damaged(workdir: Path, faults: dict[str, str]) -> ValueError:
    """Returns the error for a workdir without a whole checkpoint."""
    listed = "".join(f"\n  step {step}: {reason}" for step, reason in faults.items())
    return ValueError(
        f"every checkpoint of {workdir} is damaged:{listed}\nRestore one from a copy, or start "
        "again in another --workdir. Nothing was changed."
    )


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": sha256}
