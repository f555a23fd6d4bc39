"""Model files: one safetensors file with a network's variables and what builds its module.

Tensors are named by their Linen paths, 'params/encoder/blocks_0/kernel'. The metadata hold the
format's version, the network and its hyperparameters as JSON.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from codeformer_jax.convert.errors import ConversionError, ModelFileError
from codeformer_jax.convert.names import flatten
from codeformer_jax.convert.networks import (
    Module,
    build_module,
    check_module,
    expected_variables,
    module_fields,
)
from codeformer_jax.system.atomic import atomic_path

FORMAT = "codeformer-jax"
FORMAT_VERSION = 1
# Of safetensors, by ml_dtypes.
_NARROW_DTYPES = {
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}


def save_model(
    path: str | os.PathLike, network: str, module: Module, variables: Mapping[str, Any]
) -> None:
    """Writes a model file; an existing one is replaced only once the new one is complete.

    Raises:
        ConversionError: `variables` are not those of `module`; nothing is written.
    """
    check_module(network, module)
    flat = {"/".join(p): np.asarray(jax.device_get(v)) for p, v in flatten(variables).items()}
    if problems := _differences(flat, network, module):
        raise ConversionError(f"these variables are not those of the module:\n{problems}")
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "network": network,
        "hyperparameters": json.dumps(module_fields(module)),
    }
    # safetensors writes the memory of an array as it lies, so a transposed view comes out wrong.
    flat = {name: np.asarray(array, order="C") for name, array in flat.items()}
    with atomic_path(path) as temporary:
        safetensors.numpy.save_file(flat, temporary, metadata)


def load_model(path: str | os.PathLike) -> tuple[str, Module, dict[str, Any]]:
    """(network, module, variables) of a model file.

    Raises:
        FileNotFoundError: no such file.
        ModelFileError: not a model file, damaged, or written by a newer version.
    """
    path = Path(path)
    with open(path, "rb") as file:
        head = file.read(9)
    # The length of a safetensors header, which comes first, may begin like a pickle does.
    if head.startswith((b"PK\x03\x04", b"\x80")) and head[8:] != b"{":
        raise ModelFileError(
            f"{path}: this is a PyTorch file; convert it first: "
            f"codeformer-jax convert {path.name} {path.stem}.safetensors"
        )
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            _check_format(path, metadata)
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ModelFileError(f"{path}: not a safetensors file, or damaged ({error})") from error
    try:
        network = metadata["network"]
        module = build_module(network, json.loads(metadata["hyperparameters"]))
    except (KeyError, ValueError) as error:
        raise ModelFileError(f"{path}: its description cannot be used: {error}") from error
    if problems := _differences(flat, network, module):
        raise ModelFileError(f"{path}: its tensors are not those of its network:\n{problems}")
    tree = flax.traverse_util.unflatten_dict({tuple(k.split("/")): v for k, v in flat.items()})
    return network, module, jax.tree.map(jnp.asarray, tree)


def read_foreign(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """{name: array} of a safetensors file of PyTorch weights.

    Raises:
        ModelFileError: a file that this package wrote, or one that is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("format") == FORMAT:
                raise ModelFileError(f"{path}: already a model file; --to-torch converts it back")
            return {name: _read_tensor(path, file, name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ModelFileError(f"{path}: not a safetensors file, or damaged ({error})") from error


def _read_tensor(path: str | os.PathLike, file: Any, name: str) -> np.ndarray:
    """Reads one tensor of an open safetensors file, also of a dtype that NumPy lacks."""
    kind = file.get_slice(name).get_dtype()
    if kind not in _NARROW_DTYPES:
        try:
            return file.get_tensor(name)
        except (AttributeError, KeyError, TypeError) as error:
            raise ModelFileError(
                f"{path}: {name} has dtype {kind}, which is not read; expected float32 or one of "
                f"{', '.join(_NARROW_DTYPES)}"
            ) from error
    with open(path, "rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        entry = json.loads(raw.read(length))[name]
        begin, end = entry["data_offsets"]
        raw.seek(8 + length + begin)
        return np.frombuffer(raw.read(end - begin), _NARROW_DTYPES[kind]).reshape(entry["shape"])


def _check_format(path: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise ModelFileError(
            f"{path}: a safetensors file of another program (no format '{FORMAT}' in its "
            "metadata); model files are written by `codeformer-jax convert`"
        )
    version = metadata.get("format_version", "")
    if version != str(FORMAT_VERSION):
        raise ModelFileError(
            f"{path}: format version {version or 'missing'}; this version reads {FORMAT_VERSION}: "
            "update codeformer-jax, or convert the weights again"
        )


def _differences(flat: Mapping[str, np.ndarray], network: str, module: Module) -> str:
    """Lines that say where arrays differ from the module's variables; empty where they do not."""
    expected = {"/".join(p): v for p, v in flatten(expected_variables(network, module)).items()}

    def kind(array):
        return f"{array.dtype}{list(array.shape)}"

    lines = [f"  missing: {n} {kind(v)}" for n, v in expected.items() if n not in flat]
    lines += [f"  unexpected: {n} {kind(v)}" for n, v in flat.items() if n not in expected]
    lines += [
        f"  {n} is {kind(flat[n])}, expected {kind(v)}"
        for n, v in expected.items()
        if n in flat and kind(flat[n]) != kind(v)
    ]
    return "\n".join(lines)
