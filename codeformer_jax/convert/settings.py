"""Hyperparameters that names and shapes do not show: stored in our `.pth` files, asked of others.

Files written by this package have an entry 'codeformer_jax' beside the state dict: a plain
dictionary, which PyTorch loads safely and ignores.
"""

from collections.abc import Mapping
from typing import Any

from codeformer_jax.convert.errors import ConversionError
from codeformer_jax.convert.networks import NETWORKS, Module, lookup, module_fields
from codeformer_jax.convert.state_dicts import read_fields

SETTINGS_KEY = "codeformer_jax"
_VERSION = 1


def settings_entry(network: str, module: Module) -> dict[str, Any]:
    """Returns {SETTINGS_KEY: settings} for a `.pth` file.

    Args:
        network: registered name.
        module: its module, whose fields are stored.
    """
    fields = module_fields(module)
    return {SETTINGS_KEY: {"version": _VERSION, "network": network, "hyperparameters": fields}}


def read_settings(tree: Any) -> tuple[str, dict[str, Any]] | None:
    """Returns (network, hyperparameters) from a `.pth` file's contents, None if it has none.

    Raises:
        ConversionError: an entry of another form or version, or of an unknown network.
    """
    if not isinstance(tree, dict) or SETTINGS_KEY not in tree:
        return None
    entry = tree[SETTINGS_KEY]
    if isinstance(entry, dict) and entry.get("version") == _VERSION:
        network, fields = entry.get("network"), entry.get("hyperparameters")
        if network in NETWORKS and isinstance(fields, dict) and all(type(k) is str for k in fields):
            return network, fields
    raise ConversionError(
        f"its entry '{SETTINGS_KEY}' does not hold settings of version {_VERSION}: the file was "
        "written by another version of codeformer-jax or changed, or its network is your own and "
        "not registered; update, name its module as --plugin, or pass --key and --set"
    )


def check_hidden(network: str, table: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Returns a note of the hidden settings that get their published values; '' if there are none.

    Args:
        network: registered name.
        table: {PyTorch name: array}.
        given: fields that are known.

    Raises:
        ConversionError: the sizes are not published ones, so the hidden settings are unknown.
    """
    spec, (_, fields) = lookup(network), read_fields(network, table, given)
    hidden = [name for name in spec.hidden(fields) if name not in given]
    if not hidden:
        return ""
    default = spec.module()
    known = {n: fields.get(n, getattr(default, n)) for n in (*hidden, *spec.published)}
    listed = ", ".join(f"{name}={known[name]}" for name in hidden)
    if all(known[name] == getattr(default, name) for name in spec.published):
        return f"not shown by the file and taken as published: {listed}"
    flags = " ".join(f"--set {name}=..." for name in hidden)
    raise ConversionError(
        f"{', '.join(hidden)}: not shown by the file, whose sizes are not those of a "
        f"published network; give the values that it was trained with: {flags} (the published "
        f"{network} has {listed})"
    )
