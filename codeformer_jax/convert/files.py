"""Model files: one safetensors file with a network's variables and what builds its module.

Tensors are named by their Linen paths, 'params/encoder/blocks_0/kernel'. The metadata hold the
format's version, the network, its hyperparameters as JSON, and further notes as `about.*`.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from codeformer_jax.convert.errors import ChecksumError, ConversionError, ModelFileError
from codeformer_jax.convert.names import flatten
from codeformer_jax.convert.networks import (
    Module,
    build_module,
    check_module,
    expected_variables,
    module_fields,
)
from codeformer_jax.system import storage
from codeformer_jax.system.atomic import atomic_path
from codeformer_jax.system.hashes import file_sha256
from codeformer_jax.system.storage import Path

FORMAT = "codeformer-jax"
FORMAT_VERSION = 1
# Start of the names of further metadata.
_ABOUT = "about."
# Dtypes of other programs' safetensors, some of which NumPy has by ml_dtypes only.
_DTYPES = {
    "F64": np.dtype("f8"),
    "F32": np.dtype("f4"),
    "F16": np.dtype("f2"),
    "I64": np.dtype("i8"),
    "I32": np.dtype("i4"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
# sczhou/CodeFormer v0.1.0; xinntao/facexlib v0.1.0 and v0.2.2; xinntao/Real-ESRGAN v0.2.1.
PUBLISHED = {
    "codeformer.pth": "1009e537e0c2a07d4cabce6355f53cb66767cd4b4297ec7a4a64ca4b8a5684b7",
    "vqgan_code1024.pth": "4d1c6741b3cffcbdc2cd1a12b2c3c2442282e042d5de66909cb643d4fa31b20f",
    "detection_Resnet50_Final.pth": (
        "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d"
    ),
    "parsing_parsenet.pth": "3d558d8d0e42c20224f13cf5a29c79eba2d59913419f945545d8cf7b72920de2",
    "RealESRGAN_x2plus.pth": "49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb",
}


def save_model(
    path: str | os.PathLike,
    network: str,
    module: Module,
    variables: Mapping[str, Any],
    *,
    half: bool = False,
    about: Mapping[str, str] | None = None,
) -> None:
    """Writes a model file; an existing one is replaced only once the new one is complete.

    Equal arguments give equal bytes.

    Args:
        path: the file; its folders are made.
        network: registered name, such as 'vqgan'; see `NETWORKS`.
        module: an instance of the network's class; its fields are stored.
        variables: all variables of the module, float32.
        half: store float32 variables as float16, in half the space.
        about: further metadata, such as the commit that made the network; see `read_about`.

    Raises:
        ConversionError: `variables` are not those of `module`, or one is too large for float16;
            nothing is written.
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
    metadata |= {f"{_ABOUT}{name}": value for name, value in (about or {}).items()}
    if half:
        flat = {name: _halved(name, array) for name, array in flat.items()}
    # safetensors writes an array's memory in order, so a transposed view would come out wrong.
    flat = {name: np.asarray(array, order="C") for name, array in flat.items()}
    with atomic_path(path) as temporary:
        safetensors.numpy.save_file(flat, temporary, metadata)
        _sort_metadata(temporary)


def _halved(name: str, array: np.ndarray) -> np.ndarray:
    """Returns a float32 array as float16, any other as it is."""
    if array.dtype != np.float32:
        return array
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if np.any(np.isinf(half) & np.isfinite(array)):
        raise ConversionError(
            f"{name} has values up to {np.nanmax(np.abs(array)):g}; float16 holds at most "
            f"{np.finfo(np.float16).max:g}: store float32"
        )
    return half


def _sort_metadata(path: Path) -> None:
    """Sorts the metadata of a safetensors file, whose order is random otherwise."""
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        file.seek(8)
        file.write(text.ljust(length))


def load_model(path: str | os.PathLike) -> tuple[str, Module, dict[str, Any]]:
    """Loads a model file.

    Returns:
        The network's name, its module and its variables; those stored as float16 are float32.

    Raises:
        FileNotFoundError: no such file.
        ModelFileError: not a model file, damaged, written by a newer version, or of a network that
            is not registered.
    """
    path = storage.to_path(path)
    head = storage.read_bytes(path, 9)
    # The length of a safetensors header, which comes first, may look like the start of a pickle.
    if head.startswith((b"PK\x03\x04", b"\x80")) and head[8:] != b"{":
        raise ModelFileError(
            f"{path}: this is a PyTorch file; convert it first: "
            f"codeformer-jax convert {path.name} {path.stem}.safetensors"
        )
    with _opened(path) as file:
        metadata = file.metadata() or {}
        _check_format(path, metadata)
        flat = {name: _widened(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    try:
        network = metadata["network"]
        module = build_module(network, json.loads(metadata["hyperparameters"]))
    except (KeyError, ValueError) as error:
        raise ModelFileError(f"{path}: its description cannot be used: {error}") from error
    if problems := _differences(flat, network, module):
        raise ModelFileError(f"{path}: its tensors are not those of its network:\n{problems}")
    tree = flax.traverse_util.unflatten_dict({tuple(k.split("/")): v for k, v in flat.items()})
    return network, module, jax.tree.map(jnp.asarray, tree)


def read_about(path: str | os.PathLike) -> dict[str, str]:
    """Returns the further metadata of a model file, `about` of `save_model`.

    Raises:
        FileNotFoundError: no such file.
        ModelFileError: not a model file, damaged, or written by a newer version.
    """
    with _opened(path) as file:
        metadata = file.metadata() or {}
    _check_format(path, metadata)
    found = sorted(metadata.items())
    return {k.removeprefix(_ABOUT): v for k, v in found if k.startswith(_ABOUT)}


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def read_foreign(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns {name: array} of a safetensors file of PyTorch weights.

    Raises:
        ModelFileError: a file that this package wrote, a damaged one, or an unknown dtype.
    """
    with _opened(path) as file:
        ours = (file.metadata() or {}).get("format") == FORMAT
        tensors = dict(safetensors.deserialize(storage.read_bytes(path)))
    if ours:
        raise ModelFileError(f"{path}: already a model file; --to-torch converts it back")
    for name, tensor in tensors.items():
        if tensor["dtype"] not in _DTYPES:
            raise ModelFileError(
                f"{path}: {name} has dtype {tensor['dtype']}, which is not read; expected one of "
                f"{', '.join(_DTYPES)}"
            )
    return {
        name: np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        for name, tensor in tensors.items()
    }


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Any]:
    """Opens a safetensors file; raises ModelFileError if it is none, or damaged."""
    try:
        with (
            storage.local_copy(storage.to_path(path)) as local,
            safetensors.safe_open(local, framework="numpy") as file,
        ):
            yield file
    except safetensors.SafetensorError as error:
        raise ModelFileError(f"{path}: not a safetensors file, or damaged ({error})") from error


def _check_format(path: str | os.PathLike, metadata: Mapping[str, str]) -> None:
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
    """Returns lines that say where arrays differ from the module's variables; '' if nowhere."""
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


@dataclass(frozen=True)
class Verification:
    """Outcome of `verify`.

    Attributes:
        sha256: the file's hash, hex.
        published_as: name of the published file with that hash, None if there is none.
    """

    sha256: str
    published_as: str | None

    def __str__(self) -> str:
        if self.published_as:
            return f"verified: SHA-256 is that of the published {self.published_as}"
        return f"unverified: no published file has SHA-256 {self.sha256}"


def verify(path: str | os.PathLike) -> Verification:
    """Compares a file's SHA-256 with the published ones.

    Raises:
        ChecksumError: a file with a published name has another hash.
    """
    path = storage.to_path(path)
    sha256 = file_sha256(path)
    expected = PUBLISHED.get(path.name)
    if expected not in (None, sha256):
        raise ChecksumError(
            f"{path}: SHA-256 is {sha256}, the published {path.name} has {expected}; fetch it "
            "again, or rename it or pass --no-verify if it is meant to differ"
        )
    found = [name for name, known in PUBLISHED.items() if known == sha256]
    return Verification(sha256, found[0] if found else None)
