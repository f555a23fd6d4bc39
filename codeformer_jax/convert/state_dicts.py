"""PyTorch state dicts <-> (module, variables): `from_torch`, `to_torch`, `detect_network`."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codeformer_jax.convert import names
from codeformer_jax.convert.errors import ConversionError
from codeformer_jax.convert.networks import (
    NETWORKS,
    Module,
    Table,
    build_module,
    check_fields,
    expected_variables,
    lookup,
)


def from_torch(
    network: str, state_dict: Mapping[str, Any], **overrides: Any
) -> tuple[Module, dict[str, Any]]:
    """Converts a PyTorch state dict.

    Hyperparameters are read from names and shapes where they show; the others (n_head, beta,
    norm_groups, a VQGAN's image_size, ...) have their published defaults.

    Args:
        network: registered name, such as 'vqgan' or 'codeformer'; see `NETWORKS`.
        state_dict: {name: array or CPU tensor}.
        overrides: fields of the module; they take precedence over both.

    Returns:
        The module and its variables, float32.

    Raises:
        ConversionError: an unknown network or field, impossible sizes, or names that are missing,
            left over or of another shape; lists all of them.
    """
    table, fields = read_fields(network, state_dict, overrides)
    module = build_module(network, fields)
    expected = expected_variables(network, module)
    variables = names.load_table(table, expected, network, lookup(network).torch_name)
    return module, jax.tree.map(jnp.asarray, variables)


def to_torch(
    network: str, variables: Mapping[str, Any], module: Module | None = None
) -> dict[str, np.ndarray]:
    """Converts variables to {PyTorch name: array}, which loads strictly in PyTorch.

    Args:
        network: registered name, such as 'vqgan' or 'codeformer'; see `NETWORKS`.
        variables: collections of the network; 'params' is required.
        module: needed where PyTorch keeps settings among the arrays: a GPT's `n_unmasked`.

    Raises:
        ConversionError: an unknown network, variables without PyTorch names, or a collection that
            a strict load needs is missing.
    """
    spec = lookup(network)
    if "params" not in variables:
        raise ConversionError(
            f"variables have the collections {sorted(variables)}; expected 'params' among them"
        )
    for collection in spec.collections:
        if collection not in variables:
            raise ConversionError(
                f"the variables of a {network} need the collection '{collection}' too"
            )
    return names.dump_table(variables, spec.torch_name) | spec.buffers(variables, module)


def detect_network(state_dict: Mapping[str, Any]) -> str:
    """Returns the network that a PyTorch state dict belongs to, by its names.

    Raises:
        ConversionError: no registered network has such names.
    """
    for network in NETWORKS:
        spec = NETWORKS[network]
        table = spec.rename(unwrap(state_dict), {})
        found = [any(name.startswith(group) for name in table) for group in spec.marks]
        if found and all(found):
            return network
    first = ", ".join(list(state_dict)[:5])
    raise ConversionError(
        f"cannot tell the network from {len(state_dict)} names ({first}, ...); "
        f"say which of {', '.join(NETWORKS)} it is"
    )


def read_fields(
    network: str, state_dict: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[Table, dict[str, Any]]:
    """Returns a state dict in the names that are converted, and the fields read or given.

    Args:
        network: registered name.
        state_dict: {name: array or CPU tensor}.
        given: fields that take precedence over those read.

    Raises:
        ConversionError: an unknown network or field, or sizes that cannot be read.
    """
    spec = lookup(network)
    check_fields(network, given)
    table = unwrap({name: np.asarray(array) for name, array in state_dict.items()})
    fields = spec.read_buffers(table)
    table = spec.rename(table, given)
    shapes = {name: tuple(array.shape) for name, array in table.items()}
    return table, {**fields, **spec.read(shapes, given), **given}


def unwrap(table: Table) -> Table:
    """Returns the table without the prefixes that PyTorch's wrappers add.

    torch.compile adds `_orig_mod.` wherever it was called, DataParallel and AveragedModel `module.`
    before all names; the latter also keeps `n_averaged`.
    """
    parts = {name: [p for p in name.split(".") if p != "_orig_mod"] or [name] for name in table}
    parts = {name: part for name, part in parts.items() if part[-1] != "n_averaged"}
    while parts and all(len(part) > 1 and part[0] == "module" for part in parts.values()):
        parts = {name: part[1:] for name, part in parts.items()}
    plain = {".".join(part): table[name] for name, part in parts.items()}
    if len(plain) < len(parts):
        raise ConversionError(
            "two tensors have the same name once '_orig_mod.' (torch.compile) is removed; save the "
            "state dict of one model"
        )
    return plain
