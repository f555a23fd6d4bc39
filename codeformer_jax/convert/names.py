"""Rules between PyTorch's names and layouts and Linen's paths and layouts.

A Linen path is the PyTorch name with the index into a list joined by an underscore, so the rules
are mechanical. Kernels: convolution [o, i, kh, kw] <-> [kh, kw, i, o], linear [o, i] <-> [i, o].
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from codeformer_jax.convert.errors import ConversionError

Path = tuple[str, ...]

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
# The moving average's own state has no counterpart: a converted codebook starts with one count
# per code, as a fresh one does.
_EMA_STATE = {("codebook", "counts"), ("codebook", "sums")}
# Parameters of a network itself.
_TOP_LEVEL = {
    "position_emb": "position_emb",
    "pos_emb": "pos_emb",
    "tok_emb": "tok_emb.weight",
}
_BATCH_COUNT = ".num_batches_tracked"

# torchvision numbers every layer of its Sequential; lpips cuts it into five slices.
_FEATURE_LAYERS = {
    "vgg": {
        f"conv{block}_{i}": index
        for block, indices in enumerate(
            [(0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)], start=1
        )
        for i, index in enumerate(indices, start=1)
    },
    "alex": {f"conv{i}": index for i, index in enumerate((0, 3, 6, 8, 10), start=1)},
}


@dataclass(frozen=True)
class Entry:
    """One tensor in both worlds.

    Attributes:
        name: PyTorch state-dict key.
        path: Linen path, collection first.
        axes: the PyTorch array transposed by these is the Linen array.
    """

    name: str
    path: Path
    axes: tuple[int, ...]

    def to_linen(self, array: np.ndarray) -> np.ndarray:
        """PyTorch's layout -> Linen's, contiguous."""
        return np.asarray(array.transpose(self.axes), order="C")

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Linen's layout -> PyTorch's, contiguous."""
        return np.asarray(array.transpose(np.argsort(self.axes)), order="C")

    def torch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """PyTorch's shape of a Linen array of `shape`."""
        return tuple(shape[int(a)] for a in np.argsort(self.axes))


def entry_of(path: Path, ndim: int) -> Entry | None:
    """The rule for the Linen array at `path`; None for state that PyTorch does not keep.

    Raises:
        ConversionError: no rule knows the path.
    """
    collection, *modules, leaf = path
    if (collection, leaf) in _EMA_STATE:
        return None
    axes = tuple(range(ndim))
    if leaf == "kernel" and ndim in (2, 4):
        axes = {2: (1, 0), 4: (2, 3, 1, 0)}[ndim]
    layers = _FEATURE_LAYERS.get(path[1], {})
    if collection == "params" and len(path) == 4 and path[2] in layers:
        return Entry(f"features.{layers[path[2]]}{_LEAVES[collection, leaf]}", path, axes)
    if head := re.fullmatch(r"lins_(\d)", modules[0] if modules else ""):
        return Entry(f"lin{head[1]}.model.1.weight", path, axes)
    if len(path) == 2 and path[0] == "params" and leaf in _TOP_LEVEL:
        return Entry(_TOP_LEVEL[leaf], path, axes)
    if (collection, leaf) not in _LEAVES or not modules:
        raise ConversionError(f"no PyTorch name is known for the variable '{'/'.join(path)}'")
    name = ".".join(_torch_modules(modules)) + _LEAVES[collection, leaf]
    # PyTorch's attention keeps its joint projection as bare parameters of the attention itself.
    return Entry(re.sub(r"\.in_proj\.(weight|bias)$", r".in_proj_\1", name), path, axes)


def _torch_modules(modules: list[str]) -> Iterator[str]:
    """Modules by PyTorch's names."""
    for before, module in itertools.pairwise(("", *modules)):
        if before == "mid":  # Taming's block_1, attn_1 and block_2 are no lists.
            yield module
        elif module == "conv_out" and re.fullmatch(r"block_\d", before):
            yield "nin_shortcut"  # Taming's name of a residual block's 1x1 convolution.
        else:
            yield re.sub(r"_(\d+)$", r".\1", module)


def entries_of(flat: Mapping[Path, Any]) -> dict[str, Entry]:
    """PyTorch name -> rule for every array of flattened variables."""
    entries = (entry_of(path, len(leaf.shape)) for path, leaf in flat.items())
    return {entry.name: entry for entry in entries if entry is not None}


def flatten(variables: Mapping[str, Any]) -> dict[Path, Any]:
    """{path: array} of a variables tree."""
    return flax.traverse_util.flatten_dict(dict(variables))


def load_table(
    table: Mapping[str, np.ndarray], expected: Mapping[str, Any], network: str
) -> dict[str, Any]:
    """Variables of the shapes and dtypes in `expected` with the values of a PyTorch table.

    Floating-point tensors of another precision are cast.

    Raises:
        ConversionError: names missing, left over or of another shape; all of them are listed.
    """
    flat = flatten(expected)
    entries = entries_of(flat)
    shapes = {name: entry.torch_shape(flat[entry.path].shape) for name, entry in entries.items()}
    _check_names(table, shapes, network)
    values = {
        entry.path: entry.to_linen(np.asarray(table[name])).astype(
            flat[entry.path].dtype, copy=False
        )
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
    means = {n.removesuffix(".running_mean") for n in shapes if n.endswith(".running_mean")}
    counts = {mean + _BATCH_COUNT for mean in means}
    missing = [f"{n} {list(shapes[n])}" for n in shapes if n not in table]
    unexpected = [
        f"{n} {list(table[n].shape)}" for n in table if n not in shapes and n not in counts
    ]
    wrong = [
        f"{n} {list(table[n].shape)}, expected {list(shapes[n])}"
        for n in shapes
        if n in table and tuple(table[n].shape) != shapes[n]
    ]
    kinds = [
        f"{n} is {table[n].dtype}, expected floating point"
        for n in shapes
        if n in table and not jnp.issubdtype(table[n].dtype, jnp.floating)
    ]
    groups = {"missing": missing, "unexpected": unexpected, "wrong shape": wrong, "dtype": kinds}
    if any(groups.values()):
        lines = [f"these weights do not fit the network '{network}':"]
        for title, names in groups.items():
            lines += [f"  {title} ({len(names)}):"] * bool(names) + [f"    {n}" for n in names]
        raise ConversionError("\n".join(lines))


def dump_table(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """{PyTorch name: array} of variables, complete for a strict load in PyTorch."""
    flat = flatten(variables)
    table = {}
    for name, entry in entries_of(flat).items():
        table[name] = entry.to_torch(np.asarray(jax.device_get(flat[entry.path])))
        if name.endswith(".running_var"):
            # How many batches were seen is not kept; PyTorch uses it only without a momentum.
            table[name.removesuffix(".running_var") + _BATCH_COUNT] = np.zeros((), np.int64)
    return table
