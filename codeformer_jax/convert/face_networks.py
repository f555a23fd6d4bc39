"""Networks for whole photographs: RetinaFace, ParseNet and RRDBNet, and what their shapes show.

The functions named `read_...` are lenient, see `hyperparameters.py`.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from codeformer_jax.convert.hyperparameters import Shapes, numbers
from codeformer_jax.convert.networks import NETWORKS, Network, image_like
from codeformer_jax.nn import ParseNet, RetinaFace, RRDBNet


def read_retinaface(shapes: Shapes, _given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of `RetinaFace`: the backbone shows by the name of its first layer."""
    fields = {}
    stems = {"resnet50": "body.conv1.weight", "mobilenet": "body.stage1.0.0.weight"}
    for backbone, name in stems.items():
        if name in shapes:
            fields |= {"backbone": backbone, "stem": shapes[name][0]}
    if output := shapes.get("fpn.output1.0.weight"):
        fields["width"] = output[0]
    return fields


def read_parsenet(shapes: Shapes, _given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of `ParseNet`."""
    fields = {}
    names = ["encoder.0.conv2d.weight"]
    names += [f"encoder.{i}.conv1.conv2d.weight" for i in numbers(shapes, r"encoder\.(\d+)\.conv1")]
    if len(widths := [shapes[name][0] for name in names if name in shapes]) > 1:
        fields["widths"] = tuple(widths)
    if blocks := numbers(shapes, r"body\.(\d+)\."):
        fields["res_blocks"] = max(blocks) + 1
    if head := shapes.get("out_mask_conv.conv2d.weight"):
        fields["classes"] = head[0]
    return fields


def read_rrdbnet(shapes: Shapes, _given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of `RRDBNet`; the scale shows by how many pixels the input folds."""
    fields = {}
    if first := shapes.get("conv_first.weight"):
        fields["width"] = first[0]
        fold = math.isqrt(first[1] // 3)
        fields |= {"scale": 4 // fold} if fold in (1, 2, 4) and first[1] == 3 * fold**2 else {}
    if blocks := numbers(shapes, r"body\.(\d+)\."):
        fields["blocks"] = max(blocks) + 1
    if growth := shapes.get("body.0.rdb1.conv1.weight"):
        fields["growth"] = growth[0]
    return fields


def _parsenet_name(name: str) -> str:
    # PyTorch wraps each norm in a module of its own.
    return re.sub(r"\.norm\.(\w+)$", r".norm.norm.\1", name)


NETWORKS.register("retinaface")(
    Network(
        RetinaFace,
        lambda module: ((image_like(64),), {}),
        marks=(("body.",), ("fpn.",), ("ssh1.",), ("BboxHead.",)),
        read=read_retinaface,
        collections=("batch_stats",),
        key=None,
        torch_outputs={
            # In testing, PyTorch's network returns probabilities in place of the logits.
            "output": {"boxes": "0", "points": "2"},
            "body": {"0": "1", "1": "2", "2": "3"},
        },
    )
)
NETWORKS.register("parsenet")(
    Network(
        ParseNet,
        lambda module: ((image_like(module.min_size()),), {}),
        marks=(("encoder.0.conv2d.",), ("out_mask_conv.",)),
        read=read_parsenet,
        torch_name=_parsenet_name,
        collections=("batch_stats",),
        key=None,
        torch_outputs={"output": {"logits": "0", "image": "1"}},
    )
)
NETWORKS.register("rrdbnet")(
    Network(
        RRDBNet,
        lambda module: ((image_like(8),), {}),
        marks=(("conv_first.",), ("body.0.rdb1.",)),
        read=read_rrdbnet,
    )
)
