"""LPIPS and ST-LPIPS: their names in PyTorch, and their entries in the table of networks.

LPIPS comes as torchvision's backbone with heads, or as the `lpips` package's own file. ST-LPIPS
comes as the files of `stlpips-pytorch` with variant='shift_tolerant'.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from codeformer_jax.convert.errors import ConversionError
from codeformer_jax.convert.names import dump_table
from codeformer_jax.convert.networks import NETWORKS, Network, Shapes, Table, image_like
from codeformer_jax.nn import LPIPS, STLPIPS
from codeformer_jax.nn.perceptual import IMAGENET_MEAN, IMAGENET_STD
from codeformer_jax.nn.shift_tolerant import BLUR

# Layers by the name that the rules make -> name in PyTorch.
_LAYERS = {
    f"vgg.conv{block}.{i}": f"features.{index}"
    for block, indices in enumerate(
        [(0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)], start=1
    )
    for i, index in enumerate(indices, start=1)
} | {f"alex.conv{i}": f"features.{index}" for i, index in enumerate((0, 3, 6, 8, 10), start=1)}
_ST_LAYERS = {
    f"st_vgg.conv{block}.{i}": f"net.slice{block}.{index}"
    for block, indices in enumerate(
        [(0, 2), (6, 8), (12, 14, 16), (20, 22, 24), (28, 30, 32)], start=1
    )
    for i, index in enumerate(indices, start=1)
} | {
    f"st_alex.conv{i}": f"net.slice{i}.{index}"
    for i, index in enumerate((0, 5, 9, 11, 13), start=1)
}
# Blur filters of ST-LPIPS in PyTorch, one for each channel: name -> channels.
_ST_FILTERS = {
    "vgg": {"slice2.5": 64, "slice3.11": 128, "slice4.19": 256, "slice5.27": 512},
    "alex": {"slice1.1": 64, "slice2.4": 64, "slice3.8": 192},
}


def read(shapes: Shapes, _given: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the fields of `LPIPS` and `STLPIPS`: AlexNet shows by its first convolution."""
    for name in ("features.0.weight", "net.slice1.0.weight"):
        if name in shapes:
            return {"net": "alex" if shapes[name][2:] == (11, 11) else "vgg"}
    return {}


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


def rename_st(table: Table, _given: Mapping[str, Any]) -> Table:
    """Returns a state dict of ST-LPIPS without its buffers and its second list of heads."""
    return {
        name: array
        for name, array in table.items()
        if not (name.startswith(("lins.", "scaling_layer.")) or name.endswith(".filt"))
    }


def torch_name(name: str) -> str:
    """Returns PyTorch's name of a parameter, given the one that the rules make."""
    layer, _, leaf = name.rpartition(".")
    for layers in (_LAYERS, _ST_LAYERS):
        if layer in layers:
            return f"{layers[layer]}.{leaf}"
    return re.sub(r"^lins\.(\d)\.layer\.", r"lin\1.model.1.", name)


def check_st_buffers(table: Table) -> dict[str, Any]:
    """Checks input scaling and blur filters, which are constants of `STLPIPS`.

    Args:
        table: state dict of ST-LPIPS.

    Returns:
        No fields.

    Raises:
        ConversionError: a constant is missing or has another value.
    """
    kernel = table.get("net.slice1.0.weight", np.zeros(0))
    expected = _st_constants("alex" if kernel.shape[2:] == (11, 11) else "vgg")
    unlike = [
        name
        for name, value in expected.items()
        if name not in table
        or table[name].shape != value.shape
        or not np.allclose(table[name].astype(np.float32), value, atol=1e-6)
    ]
    if unlike:
        raise ConversionError(
            f"{', '.join(unlike)}: missing, or not the constants of ST-LPIPS; expected a file of "
            "stlpips-pytorch 0.0.2, variant 'shift_tolerant'"
        )
    return {}


def st_buffers(variables: Mapping[str, Any], _module: Any) -> dict[str, np.ndarray]:
    """Returns the constants of ST-LPIPS, and the second list of its heads.

    Args:
        variables: variables of `STLPIPS`.
    """
    constants = _st_constants("alex" if "st_alex" in variables["params"] else "vgg")
    heads = {
        re.sub(r"^lin(\d)", r"lins.\1", name): array
        for name, array in dump_table(variables, torch_name).items()
        if name.startswith("lin")
    }
    return constants | heads


def _st_constants(net: str) -> dict[str, np.ndarray]:
    mean, std = (
        np.array(v, np.float32)[None, :, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD)
    )
    blur = np.outer(BLUR, BLUR).astype(np.float32)[None, None]
    filters = {f"net.{k}.filt": np.tile(blur, (n, 1, 1, 1)) for k, n in _ST_FILTERS[net].items()}
    return {"scaling_layer.shift": 2 * mean - 1, "scaling_layer.scale": 2 * std, **filters}


# Precedes LPIPS, which has names of the same beginnings.
NETWORKS.register("st_lpips")(
    Network(
        STLPIPS,
        lambda module: ((image_like(64), image_like(64)), {}),
        marks=(("net.slice5.13.", "net.slice5.32."), ("lin0.",)),
        read=read,
        read_buffers=check_st_buffers,
        rename=rename_st,
        torch_name=torch_name,
        buffers=st_buffers,
        key=None,
        # `conv1` of AlexNet includes the blur that follows it.
        torch_outputs={r"st_alex|st_vgg|net\.slice1\.0": {}},
    )
)
NETWORKS.register("lpips")(
    Network(
        LPIPS,
        lambda module: ((image_like(64), image_like(64)), {}),
        marks=(("features.0.",), ("lin0.",)),
        read=read,
        rename=rename,
        torch_name=torch_name,
        key=None,
        torch_outputs={"vgg|alex": {}},
    )
)
