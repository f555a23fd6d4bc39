"""Settings of a network beside the tensors of a `.pth` file, for what names and shapes hide."""

from collections.abc import Mapping
from typing import Any

from codeformer_jax.convert.errors import ConversionError
from codeformer_jax.convert.networks import NETWORKS, Module, module_fields, unseen_fields

SETTINGS_KEY = "codeformer_jax"
_VERSION = 1


def settings_entry(network: str, module: Module) -> dict[str, Any]:
    """Returns {SETTINGS_KEY: plain dictionary} for a `.pth` file that PyTorch loads safely."""
    fields = module_fields(module)
    return {SETTINGS_KEY: {"version": _VERSION, "network": network, "hyperparameters": fields}}


def read_settings(tree: Any) -> tuple[str, dict[str, Any]] | None:
    """Reads (network, hyperparameters) from the contents of a `.pth` file; None in files of others.

    Raises:
        ConversionError: an entry of another form or version.
    """
    if not isinstance(tree, dict) or SETTINGS_KEY not in tree:
        return None
    entry = tree[SETTINGS_KEY]
    if isinstance(entry, dict) and entry.get("version") == _VERSION:
        network, fields = entry.get("network"), entry.get("hyperparameters")
        if network in NETWORKS and isinstance(fields, dict) and all(type(k) is str for k in fields):
            return network, fields
    raise ConversionError(
        f"its entry '{SETTINGS_KEY}' is not settings of version {_VERSION}: the file was written "
        "by another version of codeformer-jax or changed; update, or pass --key and --set"
    )


def check_guesses(network: str, table: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Returns a note of the settings that are taken as published; empty where there are none.

    Raises:
        ConversionError: the sizes are not the published ones, so what is hidden is unknown.
    """
    unseen = unseen_fields(network, table, given)
    if not unseen.fields:
        return ""
    listed = ", ".join(f"{name}={value}" for name, value in unseen.fields.items())
    if unseen.published:
        return f"not shown by the file and taken as published: {listed}"
    flags = " ".join(f"--set {name}=..." for name in unseen.fields)
    raise ConversionError(
        f"{', '.join(unseen.fields)}: not shown by the file, whose sizes are not those of a "
        f"published network; give the values that it was trained with: {flags} (the published "
        f"{network} has {listed})"
    )
