"""Collectives of a compiled program: what crosses devices, and along which axes of the mesh."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_COLLECTIVE = re.compile(
    r"^\s*(?:ROOT )?%?[\w.-]+ = (?P<result>.*?) "
    r"(?P<kind>all-gather|all-reduce|all-to-all|collective-broadcast|collective-permute|"
    r"ragged-all-to-all|reduce-scatter)(?P<start>-start)?\((?P<rest>.*)$"
)
# Between slices of TPUs, a transfer by the host: the share of a device is all that is left to send.
_BETWEEN_SLICES = re.compile(
    r"^\s*(?:ROOT )?%?[\w.-]+ = (?P<result>.*?) send(?P<start>)\((?P<rest>.*"
    r'_xla_megascale_transfer_type="(?P<kind>\w+)".*)$'
)
_ARRAY = re.compile(r"(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{\s*$")
_CALL = re.compile(r"(?:calls|to_apply|body|condition|\w+_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{(.*?)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CHANNEL = re.compile(r"channel_id=(\d+)")
_SOURCE = re.compile(r'op_name="([^"]*)"')
# XLA writes groups in three ways, and pairs for permutations.
_IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_MESH_GROUPS = re.compile(
    rf"replica_groups=mesh\[(?P<sizes>.*?)\](?:, device_ids=\({_IOTA}\))? \{{(?P<along>.*?)\}}"
)
_IOTA_GROUPS = re.compile(rf"replica_groups=\[(\d+),(\d+)\]<={_IOTA}")
_LISTED_GROUPS = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})\}")


@dataclass(frozen=True)
class Collective:
    """A collective operation of a compiled program.

    Attributes:
        kind: XLA's name, such as 'all-reduce'.
        axes: the mesh's axes that it crosses; empty if its groups could not be read.
        sizes: how many devices of each of these axes belong to one group.
        arrays: bytes and shape of each array that it gives a device.
        times: how often a run of the program executes it.
        source: the operation of the program that it belongs to.
    """

    kind: str
    axes: tuple[str, ...]
    sizes: tuple[int, ...]
    arrays: tuple[tuple[int, tuple[int, ...]], ...]
    times: int
    source: str

    @property
    def bytes(self) -> int:
        """Bytes of all arrays that it gives a device in a run of the program."""
        return self.times * sum(size for size, _ in self.arrays)

    def sent(self) -> tuple[float, float]:
        """Returns the bytes that a device sends inside its slice, and to other slices.

        Assumes rings. A reduction or gather over several slices does the part inside first.
        """
        slices = dict(zip(self.axes, self.sizes, strict=True)).get("slice", 1)
        inside = math.prod(self.sizes) // slices
        whole = self.bytes
        if self.kind in ("collective-permute", "collective-broadcast"):
            return (0.0, float(whole)) if slices > 1 else (float(whole), 0.0)
        if self.kind.endswith("all-to-all"):
            return whole * (inside - 1) / (inside * slices), whole * (slices - 1) / slices
        whole *= {"all-reduce": 2, "reduce-scatter": inside * slices}.get(self.kind, 1)
        return whole * (inside - 1) / inside, whole * (slices - 1) / slices / inside


def collectives(text: str, mesh: Mapping[str, int]) -> list[Collective]:
    """Reads the collectives of a compiled program.

    Args:
        text: the program (`jax.stages.Compiled.as_text`).
        mesh: size of each axis of the mesh that it was compiled for, outermost first.
    """
    times, computation, found, channels = _repetitions(text), "", [], set()
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            computation = header[1]
            continue
        if match := _COLLECTIVE.match(line):
            axes = _axes(match["rest"], mesh)
        elif match := _BETWEEN_SLICES.match(line):
            axes = {"slice": mesh["slice"]} if "slice" in mesh else {}
        else:
            continue
        if channel := _CHANNEL.search(line):
            # libtpu writes a collective that runs beside fusions into each of them.
            if "fus" in computation and channel[1] in channels:
                continue
            channels.add(channel[1])
        source = _SOURCE.search(line)
        found.append(
            Collective(
                kind=match["kind"].lower().replace("_", "-"),
                axes=tuple(axes),
                sizes=tuple(axes.values()),
                arrays=tuple(_arrays(match)),
                times=times.get(computation, 1),
                source=source[1] if source else "",
            )
        )
    return found


def _arrays(match: re.Match[str]) -> list[tuple[int, tuple[int, ...]]]:
    """Returns bytes and shape of each array in the result of a collective."""
    arrays = [
        (int(bits or 8), tuple(int(n) for n in dims.split(",") if n))
        for _, bits, dims in _ARRAY.findall(match["result"])
    ]
    if match["start"] and match["kind"] != "all-reduce":
        # Operands come first. A permutation has two words of context.
        arrays = [array for array in arrays if array[1] or len(arrays) < 3]
        arrays = arrays[len(arrays) // 2 :]
    if match["kind"].isupper():  # One array, and words of context.
        arrays = arrays[:1]
    return [(math.prod(shape) * bits // 8, shape) for bits, shape in arrays]


def called(instruction: str) -> list[str]:
    """Returns the computations that an instruction calls, such as a loop's body and condition."""
    names = _CALL.findall(instruction)
    for branches in _BRANCHES.findall(instruction):
        names += re.findall(r"[\w.-]+", branches)
    return names


def trips(instruction: str) -> int:
    """Returns how often a loop turns, if that is known; 1 for all else."""
    known = _TRIPS.search(instruction)
    return int(known[1]) if known else 1


def _repetitions(text: str) -> dict[str, int]:
    """Returns how often each computation runs, where loops have known trip counts."""
    callers: dict[str, tuple[str, int]] = {}
    here = ""
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            here = header[1]
            continue
        for name in called(line):
            callers[name] = here, trips(line)

    def times(name: str) -> int:
        if name not in callers:
            return 1
        caller, turns = callers[name]
        return turns * times(caller)

    return {name: times(name) for name in callers}


def _axes(text: str, mesh: Mapping[str, int]) -> dict[str, int]:
    """Returns the mesh's axes that a collective's groups cross; none if they cannot be read."""
    groups = _groups(text, math.prod(mesh.values()))
    places = [np.unravel_index(np.asarray(group, int), tuple(mesh.values())) for group in groups]
    extents = {
        axis: max((len(np.unique(place[i])) for place in places), default=1)
        for i, axis in enumerate(mesh)
    }
    return {axis: extent for axis, extent in extents.items() if extent > 1}


def _groups(text: str, count: int) -> list[list[int]]:
    """Returns the devices of each group; places in the mesh name them."""
    if found := _MESH_GROUPS.search(text):
        names, sizes = zip(*re.findall(r"'(\w+)'=(\d+)", found["sizes"]), strict=True)
        devices = _iota(count, *found.group(2, 3)).reshape([int(size) for size in sizes])
        along = [names.index(name) for name in re.findall(r"'(\w+)'", found["along"])]
        size = math.prod(devices.shape[i] for i in along)
        return np.moveaxis(devices, along, range(-len(along), 0)).reshape(-1, size).tolist()
    if found := _IOTA_GROUPS.search(text):
        return _iota(count, *found.group(3, 4)).reshape(int(found[1]), int(found[2])).tolist()
    if found := _LISTED_GROUPS.search(text):
        groups = re.findall(r"\{([\d, ]+)\}", found[1])
        return [[int(n) for n in group.split(",")] for group in groups]
    return [list(range(count))] if "replica_groups={}" in text else []


def _iota(count: int, shape: str | None, order: str | None) -> np.ndarray:
    """Returns 0 to `count` - 1, in the order of an iota of a shape with its axes transposed."""
    numbers = np.arange(count)
    if shape:
        numbers = numbers.reshape([int(n) for n in shape.split(",")])
    return numbers.transpose([int(n) for n in order.split(",")]) if order else numbers
