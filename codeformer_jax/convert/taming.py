"""Names of "Taming Transformers" checkpoints and of `diffusers`, made one.

A Lightning checkpoint of the autoencoder also holds its losses and discriminator. One of a
transformer holds `transformer.` and its autoencoders, `first_stage_model.` and `cond_stage_model.`.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from codeformer_jax.convert.errors import ConversionError
from codeformer_jax.convert.hyperparameters import Shapes, numbers, with_sides

Table = Mapping[str, np.ndarray]

# Used by training only: losses, running averages, the colours of drawn labels.
_TRAINING = ("loss.", "model_ema.", "colorize")

# State of a moving-average codebook; the average itself is `quantize.embedding.weight`.
_EMA_STATE = re.compile(r"quantize\.(embedding\.)?(cluster_size|embed_avg)")
# The codes of the whole codebook that a remapped quantizer uses, in its order.
_USED = "quantize.used"
_OF_CODES = tuple(
    f"quantize.{name}" for name in ("embedding.weight", "embed.weight", "proj.weight", "proj.bias")
)

_MASK = re.compile(r"blocks\.\d+\.attn\.mask")

# `diffusers` -> published, applied in order.
_DIFFUSERS = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
        (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
        (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
        (r"\.down_blocks\.", ".down."),
        (r"\.up_blocks\.", ".up."),
        (r"\.resnets\.", ".block."),
        (r"\.attentions\.", ".attn."),
        (r"\.(down|up)samplers\.0\.", r".\1sample."),
        (r"\.conv_shortcut\.", ".nin_shortcut."),
        (r"\.group_norm\.", ".norm."),
        (r"\.(?:to_)?(q|k|v)(?:uery|ey|alue)?\.(weight|bias)$", r".\1.\2"),
        (r"\.(?:to_out\.0|proj_attn)\.", ".proj_out."),
        (r"\.conv_norm_out\.", ".norm_out."),
    )
)


def rename_vqgan(table: Table, given: Mapping[str, Any]) -> Table:
    """Returns the autoencoder of a checkpoint in published names.

    Args:
        table: state dict of its own checkpoint, a transformer's or a file of `diffusers`.
        given: known fields. A remapped codebook stays whole unless `codebook_size` is given as the
            number of codes in use.

    Raises:
        ConversionError: the list of codes in use does not fit the codebook.
    """
    table = _part(table, "first_stage_model.")
    table = {name: array for name, array in table.items() if not name.startswith(_TRAINING)}
    table = {name: array for name, array in table.items() if not _EMA_STATE.fullmatch(name)}
    if (used := table.pop(_USED, None)) is not None:
        if used.ndim != 1 or not np.issubdtype(used.dtype, np.integer):
            raise ConversionError(
                f"{_USED} is {used.dtype} {list(used.shape)}; expected a list of codes"
            )
        for name in _OF_CODES:
            if name in table and given.get("codebook_size") == len(used) != len(table[name]):
                if used.size and not 0 <= used.min() <= used.max() < len(table[name]):
                    raise ConversionError(
                        f"{_USED} names codes outside the codebook of {len(table[name])}"
                    )
                table[name] = table[name][used]
    if not any(name.startswith("encoder.mid_block.") for name in table):
        return table
    levels = len(numbers(table, r"decoder\.up_blocks\.(\d+)\."))
    return dict(_published(name, array, levels) for name, array in table.items())


def _published(name: str, array: np.ndarray, levels: int) -> tuple[str, np.ndarray]:
    """Returns the published name and array of one tensor of `diffusers`."""
    for pattern, replacement in _DIFFUSERS:
        name = pattern.sub(replacement, name)
    # `diffusers` counts the decoder's levels from the smallest.
    name = re.sub(r"^decoder\.up\.(\d+)", lambda m: f"decoder.up.{levels - 1 - int(m[1])}", name)
    if array.ndim == 2 and re.search(r"\.(q|k|v|proj_out)\.weight$", name):
        array = array[:, :, None, None]  # A linear layer there, a 1x1 convolution here.
    return name, array


def read_vqgan(shapes: Shapes, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of `TamingVQGAN`.

    Args:
        shapes: {name: shape}.
        given: known fields; `image_size`, which does not show, is 256 unless given.

    Raises:
        ConversionError: the encoder is not complete, or not of this kind.
    """
    levels = numbers(shapes, r"encoder\.down\.(\d+)\.")
    widths = [shapes.get(f"encoder.down.{i}.block.0.conv1.weight", (0,))[0] for i in levels]
    nf = shapes.get("encoder.conv_in.weight", (0,))[0]
    if not levels or levels != list(range(len(levels))) or not nf or 0 in widths:
        raise ConversionError(
            "the encoder is not complete: expected encoder.conv_in and levels encoder.down.0, "
            f"encoder.down.1, ... as in 'Taming Transformers'; found levels {levels}"
        )
    if any(width % nf for width in widths):
        raise ConversionError(
            f"the encoder's levels have widths {widths}, which are not multiples of its first "
            f"convolution's width {nf}: not the autoencoder of 'Taming Transformers'"
        )
    fields = {
        "nf": nf,
        "ch_mult": tuple(width // nf for width in widths),
        "res_blocks": len(numbers(shapes, r"encoder\.down\.0\.block\.(\d+)\.")),
        "attention_levels": [
            i for i in levels if any(n.startswith(f"encoder.down.{i}.attn.") for n in shapes)
        ],
    }
    if conv_out := shapes.get("encoder.conv_out.weight"):
        fields["z_channels"] = conv_out[0]
    for name, quantizer in (("embedding", "nearest"), ("embed", "gumbel")):
        if codebook := shapes.get(f"quantize.{name}.weight"):
            fields |= dict(
                zip(("codebook_size", "emb_dim", "quantizer"), (*codebook, quantizer), strict=False)
            )
    return with_sides(fields, given.get("image_size", 256))


def torch_name_vqgan(name: str) -> str:
    """Returns PyTorch's name of a parameter, given the one that the rules make."""
    name = re.sub(r"(\.mid\.(?:block|attn))\.(\d)\.", r"\1_\2.", name)
    return re.sub(r"(\.block[._]\d+)\.conv_out\.", r"\1.nin_shortcut.", name)


def rename_gpt(table: Table, _given: Mapping[str, Any]) -> Table:
    """Returns the transformer alone, without its attention masks."""
    table = _part(table, "transformer.")
    return {name: array for name, array in table.items() if not _MASK.fullmatch(name)}


def read_gpt_masks(table: Table) -> dict[str, Any]:
    """Returns {'n_unmasked': number of first tokens that see each other}, as the masks say.

    Published code hides the zeros of a mask, whatever its other values.

    Raises:
        ConversionError: masks of another form, or different ones in the blocks.
    """
    found = {}
    for name, mask in _part(table, "transformer.").items():
        if _MASK.fullmatch(name):
            seen = mask.reshape(mask.shape[-2:]) != 0
            n_unmasked = int(np.argmin(seen[0])) if not seen[0].all() else len(seen)
            if not np.array_equal(seen, _visible(len(seen), n_unmasked)):
                raise ConversionError(
                    f"{name} is not a mask of causal attention whose first tokens see each other"
                )
            found[0 if n_unmasked == 1 else n_unmasked] = name
    if len(found) > 1:
        raise ConversionError(f"{' and '.join(found.values())} are different masks")
    return {"n_unmasked": next(iter(found))} if found else {}


def _visible(size: int, n_unmasked: int) -> np.ndarray:
    seen = np.tri(size, dtype=bool)
    seen[:n_unmasked, :n_unmasked] = True
    return seen


def read_gpt(shapes: Shapes, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of `GPT`; its heads and its condition do not show.

    Args:
        shapes: {name: shape}.
        given: known fields; `condition_length` is 1 unless given. The map is taken to be square,
            of at most 16x16 codes.
    """
    fields = {}
    if embeddings := shapes.get("tok_emb.weight"):
        fields["vocab_size"], fields["n_embd"] = embeddings
    if layers := numbers(shapes, r"blocks\.(\d+)\."):
        fields["n_layer"] = max(layers) + 1
    if len(positions := shapes.get("pos_emb", ())) == 3:
        fields["block_size"] = positions[1]
        room = max(1, positions[1] + 1 - given.get("condition_length", 1))
        fields["map_size"] = (min(16, math.isqrt(room)),) * 2
    return fields


def hidden_gpt(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the fields of `GPT` that do not show; a square map that fills the positions does."""
    condition = fields.get("condition")
    hidden = ["n_head", "condition"]
    hidden += {"class": ["classes"], "codes": ["condition_length"]}.get(condition, [])
    room = fields.get("block_size", 0) + 1 - fields.get("condition_length", 1)
    side = math.isqrt(max(room, 0))
    if side**2 != room or fields.get("map_size") != (side, side):
        hidden.append("map_size")
    return tuple(hidden)


def gpt_masks(variables: Mapping[str, Any], module: Any) -> dict[str, np.ndarray]:
    """Returns the buffers {name: mask [1, 1, n, n]} that published code keeps in each block.

    Args:
        variables: variables of a `GPT`.
        module: the `GPT`, for its `n_unmasked`; None stands for 0.
    """
    size = variables["params"]["pos_emb"].shape[1]
    mask = _visible(size, module.n_unmasked if module else 0).astype(np.float32)[None, None]
    blocks = numbers(variables["params"], r"blocks_(\d+)$")
    return {f"blocks.{i}.attn.mask": mask for i in blocks}


def _part(table: Table, prefix: str) -> Table:
    """Returns the entries under `prefix`, without it; the whole table if there are none."""
    part = {n.removeprefix(prefix): array for n, array in table.items() if n.startswith(prefix)}
    return part or table
