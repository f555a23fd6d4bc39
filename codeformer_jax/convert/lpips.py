"""Names of LPIPS weights: torchvision's backbone with heads, or the `lpips` package's own file."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

Table = Mapping[str, np.ndarray]

# Layers by the name that the rules make -> index in torchvision's Sequential.
_FEATURES = {
    f"vgg.conv{block}.{i}": index
    for block, indices in enumerate(
        [(0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)], start=1
    )
    for i, index in enumerate(indices, start=1)
} | {f"alex.conv{i}": index for i, index in enumerate((0, 3, 6, 8, 10), start=1)}


def read(shapes: Mapping[str, tuple[int, ...]], _given: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the fields of `LPIPS`: AlexNet is recognised by its first convolution."""
    return {"net": "alex"} if shapes.get("features.0.weight", ())[2:] == (11, 11) else {}


def rename(table: Table, _given: Mapping[str, Any]) -> Table:
    """Returns a state dict in torchvision's names, without the entries that LPIPS does not use.

    The `lpips` package lists its heads twice, keeps the input scaling as a buffer and cuts the
    backbone into five slices; torchvision's file has a classifier.
    """
    unused = ("lins.", "scaling_layer.", "classifier.")
    return {
        re.sub(r"^net\.slice\d\.", "features.", name): array
        for name, array in table.items()
        if not name.startswith(unused)
    }


def torch_name(name: str) -> str:
    """Returns PyTorch's name of a parameter, given the one that the rules make."""
    layer, _, leaf = name.rpartition(".")
    if layer in _FEATURES:
        return f"features.{_FEATURES[layer]}.{leaf}"
    return re.sub(r"^lins\.(\d)\.layer\.", r"lin\1.model.1.", name)
