"""Mesh and shardings: `jit` with NamedSharding over the axes `data` and `fsdp`."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# Arrays below this many elements are not worth the communication of sharding.
MIN_SHARDED_SIZE = 2**16


def mesh_sizes(description: str) -> dict[str, int]:
    """Sizes of the axes in 'data:-1', 'data:4,fsdp:2', ...; JAX's devices are not looked at.

    Raises:
        ValueError: where it cannot be read.
    """
    sizes = {"data": 1, "fsdp": 1}
    for part in description.split(","):
        name, _, size = part.strip().partition(":")
        if name not in sizes or not size.lstrip("-").isdigit() or int(size) == 0:
            raise ValueError(f"mesh is {description!r}; expected e.g. 'data:-1' or 'data:4,fsdp:2'")
        sizes[name] = int(size)
    return sizes


def make_mesh(description: str, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh from 'data:-1', 'data:4,fsdp:2', ...; -1 takes the devices that are left.

    Devices are in the order of their processes, `fsdp` the inner axis: each process holds rows of
    the batch that follow one another, and shards of a parameter are on one machine where its
    devices suffice.

    Args:
        devices: JAX's own, unless given.

    Raises:
        ValueError: for an unknown axis, or where the product is not the number of devices (fewer
            than all are taken only by a single process and where no axis is -1).
    """
    sizes = mesh_sizes(description)
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda device: device.process_index)
    free = [name for name, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size > 0)
    if len(free) == 1 and len(devices) % known == 0:
        sizes[free[0]] = len(devices) // known
    elif free or known > len(devices):
        raise ValueError(f"mesh {description!r} does not fit {len(devices)} devices")
    count = math.prod(sizes.values())
    if jax.process_count() > 1 and count < len(devices):
        raise ValueError(
            f"mesh {description!r} leaves out some of the {len(devices)} devices of the "
            f"{jax.process_count()} processes; expected all of them, e.g. 'data:-1'"
        )
    return Mesh(
        np.asarray(devices[:count]).reshape(tuple(sizes.values())),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
    )


def check_batch(mesh: Mesh, config: ml_collections.ConfigDict) -> None:
    """Raises ValueError where the batch, or its slices, do not divide over the devices."""
    batch, slices = config.data.batch_size, config.optimizer.get("accumulate", 1)
    if batch % (mesh.size * max(1, slices)):
        in_slices = f" in optimizer.accumulate={slices} slices" if slices > 1 else ""
        raise ValueError(
            f"data.batch_size={batch} does not divide over the {mesh.size} devices of mesh "
            f"{config.mesh!r}{in_slices}; change one of them"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The batch is split over every axis of the mesh."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(mesh: Mesh, rows: Any) -> Any:
    """Arrays of the global batch, split over the mesh, from the rows of this process.

    Every process has as many, [b / processes, ...]; those of process 0 come first.
    """
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), rows)


def put_replicated(mesh: Mesh, tree: Any) -> Any:
    """Arrays that are the same on all processes, on every device of the mesh."""
    sharding = replicated(mesh)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def put(x):
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree)


def state_sharding(mesh: Mesh, tree: Any) -> Any:
    """Shardings of a tree of arrays or ShapeDtypeStructs: large ones over `fsdp`.

    The one rule: an array of at least 65,536 elements is split along its longest axis that
    `fsdp` divides; everything else is replicated.
    """
    parts = mesh.shape["fsdp"]

    def rule(x) -> NamedSharding:
        axes = [i for i, n in enumerate(x.shape) if n % parts == 0]
        if parts == 1 or math.prod(x.shape) < MIN_SHARDED_SIZE or not axes:
            return replicated(mesh)
        longest = max(axes, key=lambda i: x.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))

    return jax.tree.map(rule, tree)
