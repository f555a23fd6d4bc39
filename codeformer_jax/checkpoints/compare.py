"""The arrays of a checkpoint compared with those that a config describes."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from codeformer_jax.tasks.state import PyTree

_LISTED = 10


def check_arrays(folder: Path, wanted: PyTree, *, dtypes: bool = True) -> None:
    """Checks that a checkpoint holds the arrays of a config before it is restored.

    Orbax casts another dtype silently, and a partial restore ignores arrays that are left over.

    Args:
        folder: the checkpoint's folder of arrays.
        wanted: arrays or shapes; a dict has only some of the state's top-level names.
        dtypes: whether the dtypes must agree too.

    Raises:
        ValueError: listing the arrays that differ.
    """
    saved = ocp.PyTreeCheckpointHandler().metadata(folder).tree
    if isinstance(wanted, dict):
        saved = {name: saved.get(name) for name in wanted}
    have, want = _described(saved, dtypes), _described(wanted, dtypes)
    pairs = {n: (have.get(n, "missing"), want.get(n, "none")) for n in sorted({*have, *want})}
    lines = [f"  {n}: {a} in the checkpoint, {b} expected" for n, (a, b) in pairs.items() if a != b]
    if lines:
        more = f"\n  and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
        raise ValueError(
            f"checkpoint {folder.parent} does not hold the arrays of its config, but those of "
            "another model or optimizer:\n" + "\n".join(lines[:_LISTED]) + f"{more}\nPut back the "
            "config that the run was started with, or use another --workdir."
        )


def _described(tree: PyTree, dtypes: bool) -> dict[str, str]:
    """Shapes by path. Paths are as Orbax writes them: with dicts for dataclasses."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{x.dtype if dtypes else ''}{list(x.shape)}"
        )
        for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
