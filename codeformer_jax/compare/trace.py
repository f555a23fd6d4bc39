"""Trace of a forward pass or a training step: named arrays in execution order, in one file.

The file is safetensors with one tensor per entry, named `kind/name`. Its metadata hold everything
else as JSON under the key 'trace'. `trace_torch.py` writes the same format without this package.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from codeformer_jax.system import storage
from codeformer_jax.system.atomic import atomic_path

FORMAT, VERSION = "codeformer-jax trace", 1


class TraceError(ValueError):
    """A trace that cannot be read, or two that cannot be compared."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of a trace, in PyTorch's layout.

    The statistics and the digest are those of the whole array, also where `array` is a subsample.

    Attributes:
        kind: 'activation', 'code', 'margin' (of codes), 'loss' (any metric of a step),
            'activation_gradient', 'gradient' (of a parameter), 'parameter' or 'buffer'.
        name: PyTorch's name, such as 'encoder.blocks.3.conv1'. Outputs of the network itself are
            'output'. Parts of a tuple or dictionary end in '.0' or '.key', and the n-th call of a
            module beyond the first in '#n'.
        array: the values; of an array [b, c, h, w] every `stride`-th row and column.
        shape: shape of the whole array.
        layer: the module that made it, with its settings, for people to read.
        dtype: dtype of the computation.
        stride: see `array`.
        mean, std, min, max: statistics.
        nonfinite: number of infinities and NaN.
        digest: see `digest`; '' for one that is not known.
        argmax_of: the entry whose argmax over the last axis these codes are, or ''.
    """

    kind: str
    name: str
    array: np.ndarray
    shape: tuple[int, ...]
    layer: str = ""
    dtype: str = "float32"
    stride: int = 1
    mean: float = 0.0
    std: float = 0.0
    min: float = 0.0
    max: float = 0.0
    nonfinite: int = 0
    digest: str = ""
    argmax_of: str = ""

    @classmethod
    def whole(cls, kind: str, name: str, array: Any, **fields: Any) -> "Entry":
        """Returns an entry that keeps all values of an array.

        Args:
            kind, name: see the class.
            array: numbers of any shape.
            fields: further attributes.
        """
        array = np.asarray(array)
        values = array.astype(np.float64)
        found = {}
        if array.size and np.isfinite(values).any():
            finite = values[np.isfinite(values)]
            found = {n: float(getattr(np, n)(finite)) for n in ("mean", "std", "min", "max")}
        return cls(
            kind,
            name,
            array,
            array.shape,
            dtype=str(array.dtype),
            nonfinite=int(np.sum(~np.isfinite(values))),
            digest=digest(array),
            **found | fields,
        )


@dataclasses.dataclass(frozen=True)
class Trace:
    """Entries in execution order, and what made them.

    Attributes:
        entries: arrays; kind and name together are unique.
        made_by: framework, versions, device, dtype and precision.
        network: name that `convert` uses, or the module's class.
        inputs: {name: {'shape', 'dtype', 'digest'}} of the arguments, in PyTorch's layout.
        weights: {PyTorch name: {'shape', 'digest'}}.
        call: keyword arguments of the call.
        objective: the scalar whose gradients were taken; '' without gradients.
        source: files from which the trace can be computed again; {} if unknown.
        rerun: module, variables and arguments in memory, see `record.Rerun`; not stored.
    """

    entries: tuple[Entry, ...]
    made_by: Mapping[str, str]
    network: str = ""
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    call: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    objective: str = ""
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rerun: Any = dataclasses.field(default=None, compare=False, repr=False)

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns the array of the first entry with a name, or with a 'kind/name'."""
        for entry in self.entries:
            if name in (entry.name, f"{entry.kind}/{entry.name}"):
                return entry.array
        raise KeyError(name)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the trace; an existing file is replaced once the new one is complete."""
        header = {
            "format": FORMAT,
            "version": VERSION,
            **{
                field.name: getattr(self, field.name)
                for field in dataclasses.fields(self)
                if field.name not in ("entries", "rerun")
            },
            "entries": [
                {
                    field.name: getattr(entry, field.name)
                    for field in dataclasses.fields(entry)
                    if field.name != "array"
                }
                for entry in self.entries
            ],
        }
        arrays = {
            f"{entry.kind}/{entry.name}": np.asarray(entry.array, order="C")
            for entry in self.entries
        }
        with atomic_path(path) as temporary:
            safetensors.numpy.save_file(arrays, temporary, {"trace": json.dumps(header)})


def load(path: str | os.PathLike) -> Trace:
    """Loads a trace.

    Raises:
        FileNotFoundError: no such file.
        TraceError: not a trace, a truncated file, or one of a newer version.
    """
    path = storage.to_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with (
            storage.local_copy(path) as local,
            safetensors.safe_open(local, framework="numpy") as file,
        ):
            header = json.loads((file.metadata() or {}).get("trace", "{}"))
            if header.get("format") != FORMAT:
                raise TraceError(
                    f"{path}: a safetensors file, but not a trace; `codeformer-jax trace` and "
                    "trace_torch.py write traces"
                )
            if header["version"] != VERSION:
                raise TraceError(
                    f"{path}: trace of version {header['version']}; this version reads {VERSION}: "
                    "update codeformer-jax, or record it again"
                )
            entries = tuple(
                Entry(
                    array=file.get_tensor(f"{fields['kind']}/{fields['name']}"),
                    **{**fields, "shape": tuple(fields["shape"])},
                )
                for fields in header["entries"]
            )
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"{path}: not a trace, or a truncated file ({error})") from error
    fields = {f.name for f in dataclasses.fields(Trace)} - {"entries", "rerun"}
    return Trace(entries, **{name: header[name] for name in fields if name in header})


def digest(array: Any) -> str:
    """Returns 16 hexadecimal digits that tell arrays apart bit by bit, after casting to float32.

    They are the sums of bits_i w_i and bits_i w_i^2 modulo 2^32, where bits_i is element i in
    row-major order as an unsigned integer and w_i = 2 i + 1. Sums of integers do not depend on
    their order, so accelerators compute the same digest.
    """
    bits = np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint32)
    first = second = np.uint32(0)
    for start in range(0, bits.size, 1 << 20):
        part = bits[start : start + (1 << 20)]
        weights = 2 * np.arange(start, start + part.size, dtype=np.uint32) + np.uint32(1)
        products = part * weights
        first = (first + products.sum(dtype=np.uint64)) & np.uint64(0xFFFFFFFF)
        second = (second + (products * weights).sum(dtype=np.uint64)) & np.uint64(0xFFFFFFFF)
    return f"{int(first):08x}{int(second):08x}"
