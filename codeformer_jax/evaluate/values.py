"""Settings as JSON values."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from codeformer_jax.degrade import Parameters, Recipe, manifest_fields


def json_values(tree: Any) -> Any:
    """Returns dataclasses, mappings, sequences and arrays as dicts, lists and numbers.

    A float32 becomes the shortest number that is read back as the same float32.
    """
    if isinstance(tree, Recipe | Parameters):
        tree = manifest_fields(tree)
    if dataclasses.is_dataclass(tree):
        tree = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
    if isinstance(tree, Mapping):
        return {str(name): json_values(value) for name, value in tree.items()}
    if tree is None or isinstance(tree, str):
        return tree
    if isinstance(tree, list | tuple):
        return [json_values(value) for value in tree]
    array = np.asarray(tree)
    if array.ndim:
        return [json_values(value) for value in array]
    # Through text: a float64 of the same value would show digits that a float32 does not have.
    return float(str(array)) if np.issubdtype(array.dtype, np.floating) else array.item()
