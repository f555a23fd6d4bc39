"""What a checkpoint holds, against what is wanted of it."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from codeformer_jax.tasks.state import PyTree, TrainState

_LISTED = 10


class OtherArrays(ValueError):
    """The arrays in a checkpoint are those of another model or optimizer."""


def check_stored(folder: Path, wanted: TrainState | dict[str, PyTree], described: str) -> None:
    """Raises OtherArrays where the arrays of a checkpoint are not the wanted ones.

    Orbax would cast another dtype in silence; a restore that leaves parts of the state away says
    nothing of arrays that are left over, and leaves those that are missing as shapes.

    Args:
        folder: of the checkpoint's arrays.
        wanted: shapes and dtypes, of a whole state or by the top-level names of one.
        described: what they follow from, to be named.
    """
    tree = ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder)).tree
    if isinstance(wanted, dict):
        tree = {name: tree.get(name) for name in wanted}
    have, want = _arrays(tree), _arrays(wanted)
    lines = [f"  {name}: not in the checkpoint" for name in sorted(want.keys() - have.keys())]
    lines += [f"  {name}: only in the checkpoint" for name in sorted(have.keys() - want.keys())]
    lines += [
        f"  {name}: {have[name]} in the checkpoint, {want[name]} by {described}"
        for name in sorted(want.keys() & have.keys())
        if have[name] != want[name]
    ]
    if lines:
        more = f"\n  and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
        raise OtherArrays(
            f"{folder.parent} holds the state of another model or optimizer than {described}:\n"
            + "\n".join(lines[:_LISTED])
            + f"{more}\nPut the settings back that the run was started with; another model takes "
            "another workdir."
        )


def _arrays(tree: Any) -> dict[str, str]:
    """Name -> dtype and shape; Orbax makes dicts of dataclasses and lists of tuples."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{x.dtype}{list(x.shape)}"
        for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
