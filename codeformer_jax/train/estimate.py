"""Estimates of a step's time from its operations, memory traffic and collectives."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from codeformer_jax.train.speed import PEAK_TFLOPS
from codeformer_jax.train.traffic import Collective


@dataclass(frozen=True)
class Chip:
    """Rates of one chip in GB/s (1e9 bytes), as published; docs/distributed.md has the sources.

    Attributes:
        memory: of its own memory.
        links: that it sends to its slice, along one ring.
        network: that it sends to other slices, its share of its machine's network.
    """

    memory: float
    links: float
    network: float


CHIPS = {
    "TPU v4": Chip(memory=1200.0, links=90.0, network=6.25),
    "TPU v5e": Chip(memory=819.0, links=90.0, network=3.125),
    "TPU v5p": Chip(memory=2765.0, links=180.0, network=6.25),
    "TPU v6e": Chip(memory=1638.0, links=180.0, network=12.5),
    "NVIDIA H100": Chip(memory=3350.0, links=450.0, network=50.0),
    "NVIDIA H200": Chip(memory=4800.0, links=450.0, network=50.0),
}
# Names in `CHIPS` by `jax.Device.device_kind`, where they differ.
_KINDS = {
    "TPU v5 lite": "TPU v5e",
    "TPU v5": "TPU v5p",
    "TPU v6 lite": "TPU v6e",
    "NVIDIA H100 80GB HBM3": "NVIDIA H100",
}


def chip_of(device_kind: str) -> Chip | None:
    """Returns the rates of a `jax.Device.device_kind`, or None if `CHIPS` does not have it."""
    return CHIPS.get(_KINDS.get(device_kind, device_kind))


@dataclass(frozen=True)
class Traffic:
    """Collectives of one kind along the same axes, in one step of one device.

    Attributes:
        kind: XLA's name, such as 'all-reduce'.
        axes: the mesh's axes, such as 'data+fsdp'.
        count: how many there are.
        bytes: size of the arrays that they give a device.
        inside: bytes that the device sends within its slice.
        between: bytes that it sends to other slices.
    """

    kind: str
    axes: str
    count: int
    bytes: int
    inside: float
    between: float


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step on one kind of chip, part by part, at the published rates.

    Attributes:
        operations, memory, links, network: time of each part alone.
        least: the longest part, if all overlap.
        most: the sum, if none does.
    """

    operations: float
    memory: float
    links: float
    network: float
    least: float
    most: float


def traffic_by_axis(found: Iterable[Collective]) -> tuple[Traffic, ...]:
    """Sums collectives of the same kind and axes."""
    groups: dict[tuple[str, str], list[Collective]] = {}
    for collective in found:
        axes = "+".join(collective.axes) or "unknown"
        groups.setdefault((collective.kind, axes), []).append(collective)
    return tuple(
        Traffic(
            kind=kind,
            axes=axes,
            count=sum(c.times for c in members),
            bytes=sum(c.bytes for c in members),
            inside=sum(c.sent()[0] for c in members),
            between=sum(c.sent()[1] for c in members),
        )
        for (kind, axes), members in sorted(groups.items())
    )


def step_times(
    flops: float, bytes_accessed: float, traffic: Iterable[Traffic]
) -> Mapping[str, StepTime]:
    """Estimates the time of a step for each of `CHIPS`.

    Args:
        flops: operations of one device, at the chip's bfloat16 peak.
        bytes_accessed: bytes that one device reads and writes.
        traffic: its collectives.
    """
    traffic = tuple(traffic)
    found = {}
    for name, chip in CHIPS.items():
        parts = {
            "operations": flops / PEAK_TFLOPS[name] / 1e12,
            "memory": bytes_accessed / chip.memory / 1e9,
            "links": sum(t.inside for t in traffic) / chip.links / 1e9,
            "network": sum(t.between for t in traffic) / chip.network / 1e9,
        }
        found[name] = StepTime(**parts, least=max(parts.values()), most=sum(parts.values()))
    return found
