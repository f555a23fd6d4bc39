"""Conversion of files, as `codeformer-jax convert` does it: PyTorch file <-> model file."""

import ast
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from codeformer_jax.convert.errors import ConversionError
from codeformer_jax.convert.files import (
    Verification,
    load_model,
    read_foreign,
    save_model,
)
from codeformer_jax.convert.files import verify as verify_checksum
from codeformer_jax.convert.networks import Module, lookup, module_fields
from codeformer_jax.convert.pth import read_pth, select_state_dict
from codeformer_jax.convert.pth_write import write_pth
from codeformer_jax.convert.settings import check_hidden, read_settings, settings_entry
from codeformer_jax.convert.state_dicts import detect_network, from_torch, to_torch
from codeformer_jax.system import storage
from codeformer_jax.system.storage import Path

StrPath = str | os.PathLike


@dataclass(frozen=True)
class ConversionSummary:
    """Result of a conversion; its text is what the command prints.

    Attributes:
        sources: files read.
        target: file written.
        network: registered name, such as 'vqgan'.
        tensors: number of PyTorch tensors.
        parameters: number of values in them.
        hyperparameters: the module's fields.
        verifications: one per PyTorch file read, if they were verified.
        note: hyperparameters that the file does not show and that got their published values.
    """

    sources: tuple[Path, ...]
    target: Path
    network: str
    tensors: int
    parameters: int
    hyperparameters: dict[str, Any]
    verifications: tuple[Verification, ...]
    note: str = ""

    def __str__(self) -> str:
        fields = ", ".join(f"{k}={v}" for k, v in self.hyperparameters.items())
        lines = [
            f"{', '.join(map(str, self.sources))} -> {self.target}",
            f"{self.network}: {self.tensors} tensors, {self.parameters / 1e6:.2f} M values",
            fields,
            *map(str, self.verifications),
            self.note,
        ]
        return "\n".join(line for line in lines if line)


def convert_file(
    source: StrPath | Sequence[StrPath],
    target: StrPath,
    *,
    network: str | None = None,
    to_torch: bool = False,
    force: bool = False,
    verify: bool = True,
    key: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> ConversionSummary:
    """Converts a PyTorch file, or safetensors of PyTorch weights, to a model file, or back.

    Args:
        source: the file, or several that are read as one state dict: LPIPS comes as backbone and
            heads.
        target: the file to write; a folder, or a name without suffix, gets the name or suffix that
            fits.
        network: registered name; None or 'auto' recognises it by its names.
        to_torch: convert a model file to a `.pth` file.
        force: replace an existing target.
        verify: compare files that have a published name with the published SHA-256.
        key: which state dict of the file to read; see `select_state_dict`.
        overrides: hyperparameters. They take precedence over the settings that this package writes
            into a `.pth` file, and those over what names and shapes show.

    Raises:
        ConversionError: anything wrong with the weights or the options; nothing is written.
        FileExistsError: the target exists and `force` is False.
        FileNotFoundError: a source does not exist.
    """
    sources = (source,) if isinstance(source, str | os.PathLike) else source
    sources = tuple(map(storage.to_path, sources))
    if not sources:
        raise ConversionError("nothing to convert: no source was given")
    for path in sources:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
    network = None if network == "auto" else network
    target = _target_path(sources, target, ".pth" if to_torch else ".safetensors", force)
    overrides = dict(overrides or {})
    if to_torch:
        return _to_torch_file(sources, target, network, overrides)
    verifications = tuple(map(verify_checksum, sources)) if verify else ()
    table, settings = _read_sources(sources, key)
    try:
        network, module, variables, note = _from_table(table, settings, network, overrides)
    except ConversionError as error:
        raise _naming(sources[0], error) from error
    save_model(target, network, module, variables)
    return _summary(sources, target, network, module, table, verifications, note)


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Returns hyperparameters: ['nf=32', 'ch_mult=1,2,2', 'connect_list=64,'] -> fields.

    Raises:
        ConversionError: a pair without '='.
    """
    fields = {}
    for pair in pairs:
        name, separator, value = (part.strip() for part in pair.partition("="))
        if not separator or not name:
            raise ConversionError(f"cannot read {pair!r}; expected KEY=VALUE, such as nf=32")
        try:
            fields[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            fields[name] = value
    return fields


def read_torch_file(path: StrPath) -> Any:
    """Reads a `.pth` file, or safetensors of PyTorch weights; see `read_pth`.

    Raises:
        ConversionError: not such a file, or a damaged one; the message names it.
    """
    path = storage.to_path(path)
    try:
        return read_foreign(path) if path.suffix == ".safetensors" else read_pth(path)
    except ConversionError as error:
        raise _naming(path, error) from error


def network_from_tree(
    tree: Any,
    *,
    network: str | None = None,
    key: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[str, Module, dict[str, Any], str]:
    """Builds the network that a PyTorch file holds.

    Args:
        tree: what `read_torch_file` returned.
        network, key, overrides: see `convert_file`.

    Returns:
        The network's name, its module, its variables and the note of `ConversionSummary`.

    Raises:
        ConversionError: anything wrong with the weights or the options.
    """
    table, settings = _read_tree(tree, key)
    return _from_table(table, settings, network, dict(overrides or {}))


def _target_path(sources: tuple[Path, ...], target: StrPath, suffix: str, force: bool) -> Path:
    folder = str(target).endswith(("/", os.sep))
    target = storage.to_path(target)
    if folder or target.is_dir():
        target = target / (sources[0].stem + suffix)
    elif not target.suffix:
        target = target.with_name(target.name + suffix)
    elif target.suffix != suffix:
        kind, hint = ("PyTorch", "leave out") if suffix == ".pth" else ("model", "pass")
        raise ConversionError(
            f"{target}: the {kind} file to write ends in {suffix}; name it so, or {hint} "
            "--to-torch for the other direction"
        )
    if storage.resolved(target) in map(storage.resolved, sources):
        raise ConversionError(f"{target}: source and target are the same file")
    if target.exists() and not force:
        raise FileExistsError(f"{target}: exists; pass --force to replace it")
    return target


def _read_sources(
    sources: tuple[Path, ...], key: str | None
) -> tuple[dict[str, np.ndarray], tuple[str, dict[str, Any]] | None]:
    """Returns the state dict of all sources, and the settings that one of them holds."""
    table: dict[str, np.ndarray] = {}
    settings = None
    for path in sources:
        tree = read_torch_file(path)
        try:
            part, found = _read_tree(tree, key)
        except ConversionError as error:
            raise _naming(path, error) from error
        settings = settings or found
        if both := sorted(set(part) & set(table)):
            raise ConversionError(f"{path}: holds names that another source has: {', '.join(both)}")
        table.update(part)
    return table, settings


def _read_tree(
    tree: Any, key: str | None
) -> tuple[dict[str, np.ndarray], tuple[str, dict[str, Any]] | None]:
    """Returns the state dict of a file's contents, and the settings that they hold."""
    table = select_state_dict(tree, key)
    # Settings do not describe a part of a state dict.
    return table, read_settings(tree) if key is None or key in tree else None


def _from_table(
    table: Mapping[str, np.ndarray],
    settings: tuple[str, dict[str, Any]] | None,
    network: str | None,
    overrides: dict[str, Any],
) -> tuple[str, Module, dict[str, Any], str]:
    """Returns network, module, variables and the note on hidden hyperparameters."""
    stored, fields = settings or (network, {})
    if network not in (None, stored):
        raise ConversionError(f"holds the network '{stored}', not '{network}'")
    network = stored or detect_network(table)
    if overrides.get("image_size", fields.get("image_size")) != fields.get("image_size"):
        # The sides with attention depend on the size and are read from the names again.
        fields = {name: value for name, value in fields.items() if name != "attn_resolutions"}
    fields = {**fields, **overrides}
    note = check_hidden(network, table, fields)
    return network, *from_torch(network, table, **fields), note


def _to_torch_file(
    sources: tuple[Path, ...], target: Path, network: str | None, overrides: dict[str, Any]
) -> ConversionSummary:
    if overrides or len(sources) > 1:
        raise ConversionError("--to-torch takes one model file, which knows its hyperparameters")
    found, module, variables = load_model(sources[0])
    if network not in (None, found):
        raise ConversionError(f"{sources[0]}: holds the network '{found}', not '{network}'")
    table, key = to_torch(found, variables, module), lookup(found).key
    write_pth(target, {key: table, **settings_entry(found, module)} if key else table)
    return _summary(sources, target, found, module, table, (), "")


def _naming(path: Path, error: ConversionError) -> ConversionError:
    """Returns the error with the file named at its start."""
    if str(error).startswith(f"{path}: "):
        return error
    return type(error)(f"{path}: {error}")


def _summary(sources, target, network, module, table, verifications, note) -> ConversionSummary:
    parameters = sum(array.size for array in table.values())
    return ConversionSummary(
        sources,
        target,
        network,
        len(table),
        parameters,
        module_fields(module),
        verifications,
        note,
    )
