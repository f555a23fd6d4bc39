"""Files with one JSON object per line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codeformer_jax.system.atomic import atomic_path


def keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Removes lines from a file.

    It also removes a line that is no JSON: a killed process was writing it.

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
