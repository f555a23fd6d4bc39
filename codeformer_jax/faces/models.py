"""Converted networks for photographs, from model files."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from codeformer_jax.convert import load_model
from codeformer_jax.system import paths


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
    path = pathlib.Path(paths.local(path))
    found, module, variables = load_model(path)
    if found != network:
        raise ValueError(f"{path}: holds the network '{found}'; expected '{network}'")
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Model(module, jax.device_put(variables, jax.local_devices()[0]), path.name, sha256)
