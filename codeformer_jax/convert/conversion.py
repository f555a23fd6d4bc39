"""The work behind `codeformer-jax convert`: PyTorch file <-> model file."""

import ast
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codeformer_jax.convert.checksums import Verification, verify
from codeformer_jax.convert.errors import ConversionError
from codeformer_jax.convert.files import load_model, read_foreign, save_model
from codeformer_jax.convert.networks import lookup, module_fields
from codeformer_jax.convert.pth import read_pth, select_state_dict
from codeformer_jax.convert.pth_write import write_pth
from codeformer_jax.convert.settings import check_hidden, read_settings, settings_entry
from codeformer_jax.convert.state_dicts import detect_network, from_torch, to_torch

StrPath = str | os.PathLike


@dataclass(frozen=True)
class ConversionSummary:
    """What was converted.

    Attributes:
        sources: files read.
        target: file written.
        network: 'vqgan', 'codeformer', ...
        tensors: number of PyTorch tensors.
        parameters: number of values in them.
        hyperparameters: the module's fields.
        verifications: one per PyTorch file read, where asked for.
        note: what a PyTorch file does not show and is taken as published.
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
            *([fields] if fields else []),
            *map(str, self.verifications),
            *([self.note] if self.note else []),
        ]
        return "\n".join(lines)


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

    Several sources are read as one table (LPIPS comes as VGG16 and heads). `network` None or
    'auto' is told from the names. A `target` that is a folder, or has no suffix, gets the file
    name or suffix that fits; `key` picks a table in the PyTorch file; `overrides` are
    hyperparameters. They go before the settings that this package writes into a PyTorch file,
    and those before what is read off names and shapes.

    Raises:
        ConversionError: anything wrong with the weights or the options; nothing is written.
        FileExistsError: the target exists and `force` is not given.
        FileNotFoundError: a source is missing.
    """
    sources = (source,) if isinstance(source, str | os.PathLike) else source
    sources = tuple(Path(s) for s in sources)
    if not sources:
        raise ConversionError("nothing to convert: no source was given")
    for path in sources:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
    network = None if network == "auto" else network
    target = _target_path(sources, target, ".pth" if to_torch else ".safetensors", force)
    if to_torch:
        return _to_torch_file(sources, target, network, dict(overrides or {}))
    return _from_torch_files(
        sources,
        target,
        network=network,
        check=verify,
        key=key,
        overrides=dict(overrides or {}),
    )


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """['nf=32', 'ch_mult=1,2,2', 'quantizer=gumbel'] -> fields; a sole number may end in a comma.

    Raises:
        ConversionError: a pair without '='.
    """
    fields = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name.strip():
            raise ConversionError(f"cannot read {pair!r}; expected KEY=VALUE, such as nf=32")
        try:
            fields[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            fields[name.strip()] = value.strip()
    return fields


def _target_path(sources: tuple[Path, ...], target: StrPath, suffix: str, force: bool) -> Path:
    folder = str(target).endswith(("/", os.sep))
    target = Path(target)
    if folder or target.is_dir():
        target = target / (sources[0].stem + suffix)
    elif not target.suffix:
        target = target.with_name(target.name + suffix)
    elif target.suffix != suffix:
        hint = "leave out --to-torch" if suffix == ".pth" else "pass --to-torch"
        other = "a PyTorch file" if suffix == ".pth" else "a model file"
        raise ConversionError(
            f"{target}: {other} is written here and ends in {suffix}; name it so, or {hint} for "
            "the other direction"
        )
    if any(target.resolve() == path.resolve() for path in sources):
        raise ConversionError(f"{target}: source and target are the same file")
    if target.exists() and not force:
        raise FileExistsError(f"{target}: exists; pass --force to replace it")
    return target


def _from_torch_files(
    sources: tuple[Path, ...],
    target: Path,
    *,
    network: str | None,
    check: bool,
    key: str | None,
    overrides: dict[str, Any],
) -> ConversionSummary:
    verifications = tuple(verify(path) for path in sources) if check else ()
    table: dict[str, np.ndarray] = {}
    settings = None
    for path in sources:
        try:
            tree = read_foreign(path) if path.suffix == ".safetensors" else read_pth(path)
            part = select_state_dict(tree, key)
            if key is None or key in tree:  # They do not describe a part of a table.
                settings = settings or read_settings(tree)
        except ConversionError as error:
            raise _naming(path, error) from error
        if both := sorted(set(part) & set(table)):
            raise ConversionError(f"{path}: holds names that another source has: {', '.join(both)}")
        table.update(part)
    try:
        stored, fields = settings or (network, {})
        if network not in (None, stored):
            raise ConversionError(f"holds the network '{stored}', not '{network}'")
        network = stored or detect_network(table)
        if overrides.get("image_size", fields.get("image_size")) != fields.get("image_size"):
            # The sides with attention follow from the size: they are read off the names again.
            fields = {name: value for name, value in fields.items() if name != "attn_resolutions"}
        fields = {**fields, **overrides}
        note = check_hidden(network, table, fields)
        module, variables = from_torch(network, table, **fields)
    except ConversionError as error:
        raise _naming(sources[0], error) from error
    save_model(target, network, module, variables)
    return _summarise(
        sources,
        target,
        network,
        table=table,
        fields=module_fields(module),
        verifications=verifications,
        note=note,
    )


def _to_torch_file(
    sources: tuple[Path, ...], target: Path, network: str | None, overrides: dict[str, Any]
) -> ConversionSummary:
    if overrides or len(sources) > 1:
        raise ConversionError("--to-torch takes one model file, which knows its hyperparameters")
    found, module, variables = load_model(sources[0])
    if network not in (None, found):
        raise ConversionError(f"{sources[0]}: holds the network '{found}', not '{network}'")
    table = to_torch(found, variables, module)
    key = lookup(found).key
    # LPIPS, whose table is the whole file, has nothing to add.
    write_pth(target, {key: table, **settings_entry(found, module)} if key else table)
    return _summarise(
        sources,
        target,
        found,
        table=table,
        fields=module_fields(module),
        verifications=(),
        note="",
    )


def _naming(path: Path, error: ConversionError) -> ConversionError:
    """The error with the file named at its start."""
    if str(error).startswith(f"{path}: "):
        return error
    return type(error)(f"{path}: {error}")


def _summarise(
    sources: tuple[Path, ...],
    target: Path,
    network: str,
    *,
    table: Mapping[str, np.ndarray],
    fields: dict[str, Any],
    verifications: tuple[Verification, ...],
    note: str,
) -> ConversionSummary:
    return ConversionSummary(
        sources=sources,
        target=target,
        network=network,
        tensors=len(table),
        parameters=sum(array.size for array in table.values()),
        hyperparameters=fields,
        verifications=verifications,
        note=note,
    )
