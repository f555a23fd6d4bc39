"""What a checkpoint holds, against what its workdir's config describes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

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
    found = differences({name: tree.get(name) for name in wanted}, wanted, lambda x: list(x.shape))
    faults = [f"{name}: missing, expected {want}" for name, want in found.missing.items()]
    faults += [f"{name}: {have}, unexpected" for name, have in found.left_over.items()]
    faults += [f"{name}: {have}, expected {want}" for name, (have, want) in found.others.items()]
    if faults:
        more = f"; and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
        raise ValueError(
            f"the arrays of {folder.parent} are not those that {config} describes: "
            + "; ".join(sorted(faults)[:_LISTED])
            + f"{more}. Put the config back with which the run was started"
        )


@dataclass(frozen=True)
class Differences:
    """Arrays by name, as they were described, in order.

    Attributes:
        missing: wanted and not saved.
        left_over: saved and not wanted.
        others: (saved, wanted) where the two are not the same.
    """

    missing: dict[str, Any]
    left_over: dict[str, Any]
    others: dict[str, tuple[Any, Any]]


def differences(saved: PyTree, wanted: PyTree, describe: Callable[[Any], Any]) -> Differences:
    """In what the arrays of two trees differ, as far as `describe` tells of an array.

    Names are paths, as Orbax writes them: it makes dicts of dataclasses and lists of tuples.
    """

    def described(tree: PyTree) -> dict[str, Any]:
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        names = (jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves)
        return dict(sorted(zip(names, (describe(x) for _, x in leaves), strict=True)))

    have, want = described(saved), described(wanted)
    both = ((name, (have[name], want[name])) for name in want if name in have)
    return Differences(
        missing={name: want[name] for name in want if name not in have},
        left_over={name: have[name] for name in have if name not in want},
        others={name: pair for name, pair in both if pair[0] != pair[1]},
    )
