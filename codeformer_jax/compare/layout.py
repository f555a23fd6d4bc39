"""PyTorch's names and layout for the activations of a Linen network."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from codeformer_jax.convert import names
from codeformer_jax.convert.networks import NETWORKS, Network

ROOT = "output"  # Name of what the network itself returns.
Path = tuple[str, ...]


def spec_of(network: str) -> Network | None:
    """Returns the registered network of a name, or None."""
    return NETWORKS.get(network)


def module_names(
    network: str, variables: Mapping[str, Any], paths: Iterable[Path]
) -> dict[Path, str]:
    """Returns {path: PyTorch's name} of modules.

    A module is named like its parameters. One without parameters is named by the mechanical rule,
    `blocks_3` -> `blocks.3`.

    Args:
        network: name in `NETWORKS`, or any other text.
        variables: the network's variables.
        paths: paths of modules; () is the network.
    """
    spec = spec_of(network)
    flat = names.flatten({"params": variables["params"]})
    rename = spec.torch_name if spec else str
    leaves = {
        path[1:]: tuple(names.entry_of(path, array.ndim, r).name for r in (str, rename))
        for path, array in flat.items()
    }

    def name(path):
        ruled = ".".join(re.sub(r"_(\d+)$", r".\1", part) for part in path)
        for leaf, (by_rule, torch_name) in leaves.items():
            below = by_rule.removeprefix(f"{ruled}.")
            if leaf[: len(path)] == path and by_rule != below:
                module = torch_name.removesuffix(f".{below}")
                return ruled if module == torch_name else module
        return ruled

    return {path: name(path) if path else ROOT for path in paths}


def places(network: str, name: str, output: Any) -> list[tuple[str, int]]:
    """Returns (place, index) of what a module returned; the place is '' where it is one array.

    Args:
        network: name in `NETWORKS`, or any other text.
        name: PyTorch's name of the module.
        output: its return value. Where the network has a rule for the module
            (`Network.torch_outputs`), leaves without a PyTorch counterpart are dropped.

    Returns:
        Names of the leaves, and their positions in `jax.tree.leaves(output)`.
    """
    spec = spec_of(network)
    rules = spec.torch_outputs if spec else {}
    rule = next((r for pattern, r in rules.items() if re.fullmatch(pattern, name)), None)
    found = [
        (".".join(str(_key(part)) for part in path), index)
        for index, (path, _) in enumerate(jax.tree_util.tree_leaves_with_path(output))
    ]
    return found if rule is None else [(rule[p], index) for p, index in found if p in rule]


def labels(network: str, module: str, number: int, output: Any) -> list[tuple[str, str, int]]:
    """Returns (entry's name, place, index) of every array that one call of a module returned.

    Args:
        network: name in `NETWORKS`, or any other text.
        module: PyTorch's name of the module.
        number: number of its earlier calls.
        output: its return value.
    """
    name = f"{module}#{number}" if number else module
    found = places(network, module, output)
    return [(f"{name}.{place}" if place else name, place, index) for place, index in found]


def torch_axes(network: str, name: str, ndim: int) -> tuple[int, ...]:
    """Returns the transposition that makes PyTorch's layout: [b, h, w, c] -> [b, c, h, w].

    Args:
        network: name in `NETWORKS`, or any other text.
        name: PyTorch's name of the module.
        ndim: axes of the array.
    """
    spec = spec_of(network)
    if ndim == 4:
        return (0, 3, 1, 2)
    if ndim == 3 and spec and re.match(spec.torch_sequence_first, name):
        return (1, 0, 2)
    return tuple(range(ndim))


def _key(part: Any) -> Any:
    """Returns the name of a field, the index of an item or the key of an entry."""
    return getattr(part, "name", getattr(part, "idx", getattr(part, "key", part)))
