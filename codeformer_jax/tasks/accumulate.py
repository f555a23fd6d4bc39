"""Gradient accumulation: a step's batch measured slice by slice, as if it were measured at once."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections

from codeformer_jax.ops.devices import on_all_devices
from codeformer_jax.tasks.state import PyTree


@flax.struct.dataclass
class Measured:
    """What a batch, or a slice of it, says of the parameters.

    Attributes:
        means: arrays that are means over the images: gradients, losses, batch statistics.
        images: arrays with one row per image, [b, ...]: codes, latents.
    """

    means: dict[str, Any]
    images: dict[str, Any]


def slices_of(config: ml_collections.ConfigDict) -> int:
    """Number of slices that `config.optimizer.accumulate` asks for; 1 where it is absent.

    Raises:
        ValueError: where it is not a positive divisor of the batch size.
    """
    slices, batch = config.optimizer.get("accumulate", 1), config.data.batch_size
    if slices < 1 or batch % slices:
        raise ValueError(
            f"optimizer.accumulate={slices} is not a number of equal slices of "
            f"data.batch_size={batch}, which is the batch of one step; change one of them"
        )
    return slices


def split(tree: PyTree, slices: int) -> PyTree:
    """Arrays [b, ...] as [slices, b / slices, ...]: slice i has the images i, i + slices, ...

    A device that holds neighbouring images has a part of every slice, so that nothing moves
    between devices (where `slices` divides each one's share of the batch).
    """
    return jax.tree.map(
        lambda x: x.reshape(x.shape[0] // slices, slices, *x.shape[1:]).swapaxes(0, 1), tree
    )


def join(tree: PyTree) -> PyTree:
    """The inverse of `split`."""
    return jax.tree.map(
        lambda x: x.swapaxes(0, 1).reshape(x.shape[0] * x.shape[1], *x.shape[2:]), tree
    )


def measure(measure_slice: Callable[[PyTree], Measured], inputs: PyTree, slices: int) -> Measured:
    """What `measure_slice` says of all `inputs`, arrays [b, ...], holding one slice at a time.

    Args:
        measure_slice: a function of a slice of `inputs`.
        inputs: whatever belongs to an image, its keys of randomness among it.
        slices: 1 measures the batch at once.
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
