"""Checks of the links between devices: sums over each axis of the mesh, timed and verified."""

import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from codeformer_jax.system import parallel
from codeformer_jax.train.doctor.finding import ENOUGH, Finding, Report, limited
from codeformer_jax.train.estimate import chip_of

# Bytes of the array whose sum shows the latency.
SMALL = 4096
# Share of the published rate below which links count as broken or badly set up.
SLOW = 0.2
REPEATS = 5


def check_links(mesh: Mesh, names: list[str], size: int, report: Report) -> list[Finding]:
    """All-reduces a small and a large array over each axis. Finds wrong sums and slow links.

    The rate is that of each device's link in a ring: 2 (n - 1) / n times the large array.

    Args:
        mesh: the devices.
        names: the machine of each process.
        size: bytes of the large array.
        report: takes lines.
    """
    found = []
    for axis, devices in mesh.shape.items():
        if devices == 1:
            continue
        place = reach(mesh, axis, names)
        report(f"links      all-reduce over {axis}: {devices} devices {place} ...")
        with limited(f"all-reduce over {axis}"):
            latency, right = all_reduce(mesh, axis, SMALL)
            seconds, also_right = all_reduce(mesh, axis, size)
        rate = 2 * (devices - 1) / devices * size / seconds / 1e9
        published = _published(mesh.devices.flat[0], place)
        share = f", {rate / published:.0%} of {published:g} published" if published else ""
        report(
            f"           {latency * 1e3:.2f} ms for {SMALL >> 10} KiB; {seconds * 1e3:.2f} ms for "
            f"{size >> 20} MiB, {rate:.2f} GB/s per device{share}"
        )
        if not (right and also_right):
            found.append(
                Finding(
                    f"the sum over the {devices} devices of mesh axis {axis} is wrong",
                    "restart the machine or slice; if it stays wrong, leave it out and report it",
                )
            )
        if published and rate < SLOW * published and size >= ENOUGH:
            found.append(
                Finding(
                    f"mesh axis {axis} ({place}) is slow: less than {SLOW:.0%} of the published "
                    f"{published:g} GB/s per device",
                    "look for a mesh that fits the hardware and for a network that is in use: "
                    "NCCL_DEBUG=INFO on GPUs, one node pool for each slice on GKE",
                )
            )
    return found


def reach(mesh: Mesh, axis: str, names: list[str]) -> str:
    """Returns where an axis leads: 'across slices', 'across machines' or 'inside a machine'.

    Args:
        mesh: the devices.
        axis: name of the axis.
        names: the machine of each process.
    """
    index = mesh.axis_names.index(axis)
    groups = np.moveaxis(mesh.devices, index, -1).reshape(-1, mesh.shape[axis])
    if any(len({getattr(d, "slice_index", 0) for d in group}) > 1 for group in groups):
        return "across slices"
    if any(len({names[d.process_index] for d in group}) > 1 for group in groups):
        return "across machines"
    return "inside a machine"


def _published(device: jax.Device, place: str) -> float | None:
    """Returns the published GB/s of a device's link; TPUs have the same across machines."""
    chip = chip_of(device.device_kind)
    if chip is None:
        return None
    slow = place == "across slices" or (place == "across machines" and device.platform != "tpu")
    return chip.network if slow else chip.links


def all_reduce(mesh: Mesh, axis: str, size: int) -> tuple[float, bool]:
    """Adds up float32 arrays, one of each device along an axis.

    Args:
        mesh: the devices.
        axis: name of the axis.
        size: bytes of each array.

    Returns:
        The median seconds, and whether every device has the right sum.
    """
    count, length = mesh.shape[axis], max(1, size // 4)
    rows = NamedSharding(mesh, PartitionSpec(axis))

    def values():
        return jnp.broadcast_to(jnp.arange(1.0, count + 1)[:, None], (count, length))

    add_up = jax.jit(partial(jnp.sum, axis=0), out_shardings=parallel.replicated(mesh))
    given = jax.jit(values, out_shardings=rows)()
    total = jax.block_until_ready(add_up(given))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        total = jax.block_until_ready(add_up(given))
        times.append(time.perf_counter() - start)
    wanted = count * (count + 1) / 2
    right = all(bool(np.all(np.asarray(x.data) == wanted)) for x in total.addressable_shards)
    return statistics.median(times), right
