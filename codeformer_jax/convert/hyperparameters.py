"""Hyperparameters read from the names and shapes of a PyTorch state dict.

The functions are lenient: a field that cannot be read keeps its published default. The comparison
of all names and shapes, which follows, says what is wrong with the state dict. Each takes
{name: shape} and the fields that the caller gives, and returns fields: see `Network.read`.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from codeformer_jax.convert.errors import ConversionError

Shapes = Mapping[str, tuple[int, ...]]

# Blocks by a submodule that only they have; a bare `weight` is a convolution or a norm.
_BLOCK_KINDS = {
    "res": {"norm1", "conv1", "norm2", "conv2", "conv_out"},
    "attention": {"norm", "q", "k", "v", "proj_out"},
    "resample": {"conv"},
    "bare": {"weight", "bias"},
}
_HEAD_BLOCKS = 5  # res, attention, res, norm, conv close the encoder


def read_vqgan(shapes: Shapes, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of `VQGAN`.

    Args:
        shapes: {name: shape}.
        given: known fields; `image_size`, which does not show, is 512 unless given.
    """
    fields = _read_backbone(shapes)
    return with_sides(fields, given.get("image_size", 512))


def read_codeformer(shapes: Shapes, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of `CodeFormer`.

    Args:
        shapes: {name: shape}; the grid of token positions shows the image size.
        given: known fields; a given `image_size` takes precedence.
    """
    fields = _read_backbone(shapes)
    image_size = 512
    positions = shapes.get("position_emb", ())
    if len(positions) == 2:
        fields["dim_embd"] = positions[1]
        image_size = math.isqrt(positions[0]) * 2 ** (len(fields["ch_mult"]) - 1)
    layers = numbers(shapes, r"ft_layers\.(\d+)\.")
    if layers:
        fields["n_layers"] = max(layers) + 1
    fields["connect_list"] = tuple(numbers(shapes, r"fuse_convs_dict\.(\d+)\."))
    return with_sides(fields, given.get("image_size", image_size))


def read_discriminator(shapes: Shapes, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of `PatchDiscriminator`."""
    fields = {}
    if "main.0.weight" in shapes:
        fields["ndf"] = shapes["main.0.weight"][0]
    found = numbers(shapes, r"main\.(\d+)\.")
    if found:
        # The convolutions have the indices 0, 2, 5, 8, ...; the last one has 3 * n_layers + 2.
        fields["n_layers"] = max(1, (max(found) - 2) // 3)
    return fields


def numbers(names: Iterable[str], pattern: str) -> list[int]:
    """Returns the distinct numbers in names, in ascending order.

    Args:
        names: parameter names.
        pattern: regular expression for the start of a name; its group is the number.
    """
    return sorted({int(m[1]) for name in names if (m := re.match(pattern, name))})


def with_sides(fields: dict[str, Any], image_size: Any) -> dict[str, Any]:
    """Returns fields with `attn_resolutions` for an image size in place of `attention_levels`.

    Args:
        fields: with 'attention_levels', the levels that have attention; 0 has the image's size.
        image_size: side in pixels.

    Raises:
        ConversionError: the size is not a positive integer.
    """
    if type(image_size) is not int or image_size < 1:
        raise ConversionError(f"image_size is {image_size!r}; expected a positive integer")
    levels = fields.pop("attention_levels")
    sides = tuple(image_size // 2**level for level in levels)
    return {**fields, "image_size": image_size, "attn_resolutions": sides}


def _read_backbone(shapes: Shapes) -> dict[str, Any]:
    blocks = _encoder_blocks(shapes)
    levels: list[list[tuple[str, int]]] = [[]]
    for kind, width in blocks[1:-_HEAD_BLOCKS]:
        if kind == "resample":
            levels.append([])
        else:
            levels[-1].append((kind, width))
    nf = blocks[0][1]
    widths = [next((w for kind, w in level if kind == "res" and w), 0) for level in levels]
    if not nf or 0 in widths or any(width % nf for width in widths):
        raise ConversionError(
            f"the encoder's levels have widths {widths}, which are not multiples of its first "
            f"convolution's width {nf}: not a VQGAN encoder"
        )
    fields = {
        "nf": nf,
        "ch_mult": tuple(width // nf for width in widths),
        "res_blocks": sum(kind == "res" for kind, _ in levels[0]),
        "attention_levels": [
            i for i, level in enumerate(levels) if any(kind == "attention" for kind, _ in level)
        ],
        "emb_dim": blocks[-1][1],
    }
    for name, quantizer in (("embedding", "nearest"), ("embed", "gumbel")):
        if codebook := shapes.get(f"quantize.{name}.weight"):
            fields["codebook_size"], fields["quantizer"] = codebook[0], quantizer
    return fields


def _encoder_blocks(shapes: Shapes) -> list[tuple[str, int]]:
    """Returns (kind, width) of the encoder's blocks in order."""
    blocks: dict[int, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        if match := re.match(r"encoder\.blocks\.(\d+)\.(.+)", name):
            blocks.setdefault(int(match[1]), {})[match[2]] = shape
    missing = [f"encoder.blocks.{i}" for i in range(max(blocks, default=0)) if i not in blocks]
    if missing or len(blocks) <= _HEAD_BLOCKS + 1:
        listed = ", ".join(missing) or f"only {len(blocks)} encoder blocks"
        raise ConversionError(f"the encoder is not complete; missing: {listed}")
    return [_describe_block(i, blocks[i]) for i in sorted(blocks)]


def _describe_block(index: int, members: Mapping[str, tuple[int, ...]]) -> tuple[str, int]:
    parts = {name.split(".")[0] for name in members}
    kind = next((k for k, known in _BLOCK_KINDS.items() if parts & known), None)
    if kind is None:
        raise ConversionError(f"encoder.blocks.{index} has an unknown kind: {', '.join(members)}")
    # The first axis of these tensors is the block's output width.
    outputs = ("conv2.weight", "conv2.bias", "norm2.weight", "norm2.bias", "conv1.bias")
    names = outputs if kind == "res" else tuple(members)
    return kind, next((members[n][0] for n in names if n in members), 0)
