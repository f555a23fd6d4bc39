"""The mesh and its shardings: `jit` with NamedSharding over axes `slice`, `data` and `fsdp`."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# Smaller arrays are not worth the communication of sharding.
MIN_SHARDED_SIZE = 2**16


def mesh_sizes(description: str) -> dict[str, int]:
    """Parses a mesh like 'data:-1' or 'slice:2,data:4,fsdp:2' without starting JAX.

    Returns:
        The size of each axis, outermost first, and -1 for the remaining devices. `slice` is there
        only if the description names it.

    Raises:
        ValueError: if the description is malformed.
    """
    sizes = {"slice": 0, "data": 1, "fsdp": 1}
    for part in description.split(","):
        name, _, size = part.strip().partition(":")
        if name not in sizes or not size.lstrip("-").isdigit() or int(size) == 0:
            raise ValueError(f"mesh is {description!r}; expected e.g. 'data:-1' or 'data:4,fsdp:2'")
        sizes[name] = int(size)
    return {name: size for name, size in sizes.items() if size}


def make_mesh(description: str, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Makes a mesh with the axes `data` and `fsdp`, and `slice` if the description names it.

    Devices are in the order of their processes and `fsdp` is the inner axis: each process holds
    consecutive rows of the batch, and the shards of a parameter stay on one machine if they fit.
    `slice` is the outer axis: devices with a `slice_index` are in the order of their slices, then
    of their processes. Devices without one, such as CPUs, are dealt to slices as they come.

    Args:
        description: 'data:-1', 'data:4,fsdp:2', 'slice:2,data:-1' and the like; -1 takes the
            remaining devices.
        devices: the devices to use; default: all of JAX's.

    Raises:
        ValueError: if an axis is unknown, the sizes do not fit the devices, or the mesh cuts a
            slice of the hardware. Only a single process may leave devices out.
    """
    sizes = mesh_sizes(description)
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda device: device.process_index)
    if "slice" in sizes:
        devices.sort(key=_slice_index)
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
    if "slice" in sizes:
        _check_slices(description, devices[:count], sizes["slice"])
    return Mesh(
        np.asarray(devices[:count]).reshape(tuple(sizes.values())),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
    )


def _slice_index(device: jax.Device) -> int:
    return getattr(device, "slice_index", 0)


def _check_slices(description: str, devices: Sequence[jax.Device], slices: int) -> None:
    """Raises ValueError if a slice of the hardware lies in two slices of the mesh."""
    size = len(devices) // slices
    parts = [{_slice_index(d) for d in devices[i * size : (i + 1) * size]} for i in range(slices)]
    indices = set().union(*parts)
    if len(indices) > 1 and sum(map(len, parts)) > len(indices):
        raise ValueError(
            f"mesh {description!r} cuts one of the {len(indices)} slices of the hardware; expected "
            f"'slice:{len(indices)}', and a product of the other axes that fills a slice"
        )


def check_batch(mesh: Mesh, config: ml_collections.ConfigDict) -> None:
    """Raises ValueError if the batch or its slices cannot be divided among the devices."""
    batch, slices = config.data.batch_size, config.optimizer.get("accumulate", 1)
    if batch % (mesh.size * max(1, slices)):
        in_slices = f" in optimizer.accumulate={slices} slices" if slices > 1 else ""
        raise ValueError(
            f"data.batch_size={batch} does not divide over the {mesh.size} devices of mesh "
            f"{config.mesh!r}{in_slices}; change one of them"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch, split over all axes of the mesh."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a value that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(mesh: Mesh, rows: Any) -> Any:
    """Makes arrays of the global batch, split over the mesh, from the rows of each process.

    Args:
        mesh: the mesh.
        rows: arrays [b / processes, ...] of this process. Those of process 0 come first.
    """
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), rows)


def put_replicated(mesh: Mesh, tree: Any) -> Any:
    """Copies a tree of host arrays, the same on all processes, to every device of the mesh."""
    sharding = replicated(mesh)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def put(x):
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree)


def state_sharding(mesh: Mesh, tree: Any) -> Any:
    """Returns the shardings of a training state.

    An array with at least 65,536 elements is split along its longest axis that `fsdp` divides,
    within each slice. Everything else is replicated.

    Args:
        mesh: the mesh.
        tree: arrays or ShapeDtypeStructs.
    """
    parts = mesh.shape["fsdp"]

    def rule(x) -> NamedSharding:
        axes = [i for i, n in enumerate(x.shape) if n % parts == 0]
        if parts == 1 or math.prod(x.shape) < MIN_SHARDED_SIZE or not axes:
            return replicated(mesh)
        longest = max(axes, key=lambda i: x.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))

    return jax.tree.map(rule, tree)
