"""Rules between PyTorch's names and layouts and Linen's paths and layouts.

The rules are mechanical: `blocks_3/conv/kernel` is `blocks.3.conv.weight`, and a parameter with a
name of its own keeps it. `Network.torch_name` adds what is particular to one network. Kernels:
convolution [o, i, kh, kw] <-> [kh, kw, i, o], linear [o, i] <-> [i, o].
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from codeformer_jax.convert.errors import ConversionError

Path = tuple[str, ...]
Rename = Callable[[str], str]

_LEAVES = {
    ("params", "kernel"): ".weight",
    ("params", "scale"): ".weight",
    ("params", "bias"): ".bias",
    ("params", "embedding"): ".embedding.weight",
    ("params", "embed"): ".embed.weight",
    ("codebook", "embedding"): ".embedding.weight",
    ("batch_stats", "mean"): ".running_mean",
    ("batch_stats", "var"): ".running_var",
}
COLLECTIONS = tuple(dict.fromkeys(collection for collection, _ in _LEAVES))
# PyTorch has no counterpart to the moving average's state: a converted codebook starts with one
# count per code, like a new one.
_EMA_STATE = {("codebook", "counts"), ("codebook", "sums")}
_BATCH_COUNT = ".num_batches_tracked"


@dataclass(frozen=True)
class Entry:
    """Rule between one PyTorch tensor and one Linen array.

    Attributes:
        name: PyTorch state-dict key.
        path: Linen path, collection first.
        axes: transposition of the PyTorch array that makes the Linen array.
    """

    name: str
    path: Path
    axes: tuple[int, ...]

    def to_linen(self, array: np.ndarray) -> np.ndarray:
        """Returns a contiguous array in Linen's layout, given one in PyTorch's."""
        return np.asarray(array.transpose(self.axes), order="C")

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Returns a contiguous array in PyTorch's layout, given one in Linen's."""
        return np.asarray(array.transpose(np.argsort(self.axes)), order="C")

    def torch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns PyTorch's shape, given Linen's."""
        return tuple(shape[int(a)] for a in np.argsort(self.axes))


def entry_of(path: Path, ndim: int, torch_name: Rename) -> Entry | None:
    """Returns the rule for the Linen array at `path`; None for state that PyTorch does not keep.

    Args:
        path: collection, modules, name.
        ndim: axes of the array.
        torch_name: the network's own names, see `networks.Network`.

    Raises:
        ConversionError: no rule knows the collection.
    """
    collection, *modules, leaf = path
    if (collection, leaf) in _EMA_STATE:
        return None
    axes = tuple(range(ndim))
    if leaf == "kernel" and ndim >= 2:
        axes = (*axes[2:], 1, 0)
    if (collection, leaf) in _LEAVES and modules:
        ending = _LEAVES[collection, leaf]
    elif collection == "params":
        ending = f".{leaf}"
    else:
        raise ConversionError(f"no PyTorch name is known for the variable '{'/'.join(path)}'")
    name = ".".join(re.sub(r"_(\d+)$", r".\1", module) for module in modules) + ending
    # PyTorch's attention keeps its joint projection as bare parameters of the attention itself.
    name = re.sub(r"\.in_proj\.(weight|bias)$", r".in_proj_\1", name.removeprefix("."))
    return Entry(torch_name(name), path, axes)


def entries_of(flat: Mapping[Path, Any], torch_name: Rename = str) -> dict[str, Entry]:
    """Returns {PyTorch name: rule} for every array of flattened variables.

    Args:
        flat: {path: array}, see `flatten`.
        torch_name: the network's own names, see `networks.Network`.
    """
    entries = (entry_of(path, len(leaf.shape), torch_name) for path, leaf in flat.items())
    return {entry.name: entry for entry in entries if entry is not None}


def flatten(variables: Mapping[str, Any]) -> dict[Path, Any]:
    """Returns {path: array} for a tree of variables."""
    return flax.traverse_util.flatten_dict(dict(variables))


def load_table(
    table: Mapping[str, np.ndarray], expected: Mapping[str, Any], network: str, torch_name: Rename
) -> dict[str, Any]:
    """Returns variables with the values of a PyTorch table, cast to the expected dtypes.

    Args:
        table: {PyTorch name: array}.
        expected: variables as shapes and dtypes.
        network: for error messages.
        torch_name: the network's own names, see `networks.Network`.

    Raises:
        ConversionError: names that are missing, left over or of another shape; lists all of them.
    """
    flat = flatten(expected)
    entries = entries_of(flat, torch_name)
    shapes = {name: entry.torch_shape(flat[entry.path].shape) for name, entry in entries.items()}
    _check_names(table, shapes, network)
    values = {
        entry.path: entry.to_linen(table[name]).astype(flat[entry.path].dtype, copy=False)
        for name, entry in entries.items()
    }
    for path, leaf in flat.items():
        if path[-1] == "counts" and path not in values:
            values[path] = np.ones(leaf.shape, leaf.dtype)
        elif path[-1] == "sums" and path not in values:
            values[path] = np.array(values[(*path[:-1], "embedding")])
    return flax.traverse_util.unflatten_dict({path: values[path] for path in flat})


def _check_names(
    table: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], network: str
) -> None:
    counts = {n.replace(".running_mean", _BATCH_COUNT) for n in shapes}
    both = [n for n in shapes if n in table]
    groups = {
        "missing": [f"{n} {list(shapes[n])}" for n in shapes if n not in table],
        "unexpected": [
            f"{n} {list(table[n].shape)}" for n in table if n not in shapes and n not in counts
        ],
        "wrong shape": [
            f"{n} {list(table[n].shape)}, expected {list(shapes[n])}"
            for n in both
            if tuple(table[n].shape) != shapes[n]
        ],
        "dtype": [
            f"{n} is {table[n].dtype}, expected floating point"
            for n in both
            if not jnp.issubdtype(table[n].dtype, jnp.floating)
        ],
    }
    if any(groups.values()):
        lines = [f"these weights do not fit the network '{network}':"]
        for title, names in groups.items():
            lines += [f"  {title} ({len(names)}):"] * bool(names) + [f"    {n}" for n in names]
        raise ConversionError("\n".join(lines))


def dump_table(variables: Mapping[str, Any], torch_name: Rename) -> dict[str, np.ndarray]:
    """Returns {PyTorch name: array} of variables, complete for a strict load in PyTorch.

    Args:
        variables: collections of a network.
        torch_name: the network's own names, see `networks.Network`.
    """
    flat = flatten(variables)
    table = {}
    for name, entry in entries_of(flat, torch_name).items():
        table[name] = entry.to_torch(np.asarray(jax.device_get(flat[entry.path])))
        if name.endswith(".running_var"):
            # Linen does not count the batches; PyTorch uses the count only without a momentum.
            table[name.removesuffix(".running_var") + _BATCH_COUNT] = np.zeros((), np.int64)
    return table
