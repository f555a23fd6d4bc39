"""Gradient accumulation, slice by slice of a step's batch, and norms of gradients."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float

from codeformer_jax.ops.devices import on_all_devices
from codeformer_jax.tasks.state import PyTree

# Prefix of a parameter's top-level name -> group; all others belong to the transformer.
GROUPS = {
    "encoder": "encoder",
    "quantize": "quantizer",
    "generator": "generator",
    "decoder": "decoder",
    "fuse_convs_dict_": "fusion",
    **dict.fromkeys(("embed", "gated_", "head_"), "pixelcnn"),
}


@flax.struct.dataclass
class Measured:
    """Results of a batch, or of a slice of it.

    Attributes:
        means: arrays that are means over the images, such as gradients, losses, batch statistics.
        images: arrays with one row per image, [b, ...], such as codes and latents.
    """

    means: dict[str, Any]
    images: dict[str, Any]


def slices_of(config: ml_collections.ConfigDict) -> int:
    """Returns the number of slices, `config.optimizer.accumulate`; 1 if it is absent.

    Raises:
        ValueError: it does not divide the batch size.
    """
    slices, batch = config.optimizer.get("accumulate", 1), config.data.batch_size
    if slices < 1 or batch % slices:
        raise ValueError(
            f"optimizer.accumulate={slices} does not divide data.batch_size={batch}, the batch of "
            "one step; change one of them"
        )
    return slices


def split(tree: PyTree, slices: int) -> PyTree:
    """Returns arrays [b, ...] as [slices, b / slices, ...].

    Slice i has the images i, i + slices, ... A device that holds neighbouring images then has a
    part of every slice, so nothing moves between devices if `slices` divides each device's share of
    the batch.
    """
    return jax.tree.map(
        lambda x: x.reshape(x.shape[0] // slices, slices, *x.shape[1:]).swapaxes(0, 1), tree
    )


def join(tree: PyTree) -> PyTree:
    """Returns arrays [slices, b / slices, ...] as [b, ...]; the inverse of `split`."""
    return jax.tree.map(
        lambda x: x.swapaxes(0, 1).reshape(x.shape[0] * x.shape[1], *x.shape[2:]), tree
    )


def measure(measure_slice: Callable[[PyTree], Measured], inputs: PyTree, slices: int) -> Measured:
    """Measures a batch slice by slice, with one slice in memory at a time.

    Args:
        measure_slice: slice of `inputs` -> its results.
        inputs: arrays [b, ...] of everything that belongs to an image, including its random key.
        slices: number of slices; 1 measures the batch at once.

    Returns:
        The results of the whole batch.
    """

    def measure_here(part: PyTree) -> Measured:
        measured = measure_slice(part)
        return measured.replace(means=on_all_devices(measured.means))

    if slices == 1:
        return measure_here(inputs)
    parts = split(inputs, slices)
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), parts)
    means = jax.eval_shape(lambda part: measure_slice(part).means, first)

    def body(total: PyTree, part: PyTree) -> tuple[PyTree, PyTree]:
        measured = measure_here(part)
        return jax.tree.map(jnp.add, total, measured.means), measured.images

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), means)
    total, images = jax.lax.scan(body, zeros, parts)
    return Measured(means=jax.tree.map(lambda x: x / slices, total), images=join(images))


def gradient_norms(gradients: PyTree) -> dict[str, Float[Array, ""]]:
    """Returns 'grad_norm_GROUP' -> Euclidean norm of the group's gradients before clipping.

    Args:
        gradients: keyed by the parameters' top-level names; parts that are not trained are absent.
    """
    groups: dict[str, dict] = {}
    for name, tree in gradients.items():
        group = next((g for start, g in GROUPS.items() if name.startswith(start)), "transformer")
        groups.setdefault(group, {})[name] = tree
    return {f"grad_norm_{group}": norm(tree) for group, tree in groups.items()}


def norm(gradients: PyTree) -> Float[Array, ""]:
    """Returns the Euclidean norm of a tree of arrays; non-finite if an element is."""
    squares = [jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(gradients)]
    return jnp.sqrt(jnp.sum(jnp.stack(squares)))
