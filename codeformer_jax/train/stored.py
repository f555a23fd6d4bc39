"""What a checkpoint holds, against what its workdir's config describes."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict

from codeformer_jax.tasks.state import PyTree

_LISTED = 5


def check_stored(folder: Path, wanted: dict[str, PyTree], config: Path) -> None:
    """Raises ValueError where the arrays of a checkpoint are not those of a config.

    A restore that leaves parts of the state away says nothing of arrays that are left over, and
    leaves those that are missing as shapes.

    Args:
        folder: of the checkpoint's arrays.
        wanted: shapes, by the top-level names of the state.
        config: the file that describes them, to be named.
    """
    tree = ocp.PyTreeCheckpointHandler().metadata(folder).tree
    have = _shapes({name: tree.get(name) or {} for name in wanted})
    want = _shapes(wanted)
    faults = [f"{name}: missing, expected {list(want[name])}" for name in want.keys() - have]
    faults += [f"{name}: {list(have[name])}, unexpected" for name in have.keys() - want]
    faults += [
        f"{name}: {list(have[name])}, expected {list(want[name])}"
        for name in want.keys() & have
        if have[name] != want[name]
    ]
    if faults:
        more = f"; and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
        raise ValueError(
            f"the arrays of {folder.parent} are not those that {config} describes: "
            + "; ".join(sorted(faults)[:_LISTED])
            + f"{more}. Put the config back with which the run was started"
        )


def _shapes(tree: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    leaves = flatten_dict(jax.tree.map(lambda x: tuple(x.shape), tree), sep="/")
    return {name: shape for name, shape in leaves.items() if shape is not None}
