"""What a precision costs: one network computed in several, against float64 on the CPU."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codeformer_jax.compare.comparison import Comparison, compare
from codeformer_jax.compare.inputs import StrPath, in_dtype, read_inputs
from codeformer_jax.compare.record import trace
from codeformer_jax.compare.sources import keywords, load_weights
from codeformer_jax.compare.trace import Trace, TraceError

# Name -> (dtype of the computation, dtype that weights are rounded to, precision of products).
RUNGS = {
    "float32 highest": ("float32", "float32", "highest"),
    "float32 high": ("float32", "float32", "high"),
    "float32 default": ("float32", "float32", "default"),
    "bfloat16 compute": ("bfloat16", "float32", "default"),
    "float16 weights": ("float32", "float16", "highest"),
}
# Deeper names are parts of these: 'encoder.blocks.3' holds 'encoder.blocks.3.conv1'.
_DEPTH = 3


@dataclasses.dataclass(frozen=True)
class Rung:
    """A network in one precision, compared with float64.

    Attributes:
        name: one of `RUNGS`.
        comparison: its comparison; the second trace is float64's.
        flipped: share of the codes that differ; NaN for a network without codes.
        psnr: PSNR in dB between both images, of the pixels that the traces keep; NaN without one.
    """

    name: str
    comparison: Comparison
    flipped: float
    psnr: float


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Rungs in the order of `RUNGS`."""

    rungs: tuple[Rung, ...]

    def summary(self) -> str:
        """Returns a Markdown table with a line for each precision."""
        lines = [
            "| precision | largest layer error | in layer | output error | codes flipped | PSNR |",
            "|---|---|---|---|---|---|",
        ]
        for rung in self.rungs:
            worst = rung.comparison.worst
            outputs = [row for row in rung.comparison.rows if row.name.startswith("output")]
            output = max(outputs, key=lambda row: math.prod(row.shape))
            flipped = "" if math.isnan(rung.flipped) else f"{100 * rung.flipped:.2f} %"
            psnr = "" if math.isnan(rung.psnr) else f"{rung.psnr:.1f} dB"
            lines.append(
                f"| {rung.name} | {worst.relative_l2:.1e} | {worst.name} | "
                f"{output.relative_l2:.1e} | {flipped} | {psnr} |"
            )
        return "\n".join(lines)

    def layers(self) -> str:
        """Returns the relative L2 error of each block as a Markdown table, a column per rung."""
        names = [rung.name for rung in self.rungs]
        columns = [
            {row.name: row for row in rung.comparison.rows if row.kind == "activation"}
            for rung in self.rungs
        ]
        lines = [f"| layer | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for name in columns[0]:
            if name.count(".") < _DEPTH:
                cells = " | ".join(f"{column[name].relative_l2:.1e}" for column in columns)
                lines.append(f"| {name} | {cells} |")
        return "\n".join(lines)

    def __str__(self) -> str:
        return f"{self.layers()}\n\n{self.summary()}"


def ladder(
    module: Any,
    variables: Mapping[str, Any],
    *args: Any,
    network: str | None = None,
    **kwargs: Any,
) -> Ladder:
    """Computes a network in each precision of `RUNGS` and in float64.

    Args:
        module, variables, args, network, kwargs: see `record.trace`.

    Returns:
        The rungs, each compared with float64.

    Raises:
        TraceError: the module has no field `dtype`.
    """
    if not hasattr(module, "dtype"):
        raise TraceError(f"{type(module).__name__} has no field 'dtype' that says its precision")

    def take(compute: str, stored: str, precision: str) -> Trace:
        weights = jax.tree.map(lambda x: in_dtype(in_dtype(x, stored), _wider(compute)), variables)
        inputs = [in_dtype(x, _wider(compute)) for x in args]
        with jax.default_matmul_precision(precision):
            clone = module.clone(dtype=jnp.dtype(compute))
            return trace(clone, weights, *inputs, network=network, **kwargs)

    with _float64():
        reference = take("float64", "float32", "highest")
    rungs = []
    for name, settings in RUNGS.items():
        found = take(*settings)
        comparison = compare(found, reference, force=True, suspects=False)
        shares = [row.relative_l2 for row in comparison.rows if row.kind == "code"]
        rungs.append(Rung(name, comparison, max(shares, default=math.nan), _psnr(found, reference)))
    return Ladder(tuple(rungs))


def ladder_of_files(
    weights: StrPath,
    inputs: Sequence[StrPath],
    *,
    call: Mapping[str, Any] | None = None,
    **options: Any,
) -> Ladder:
    """Returns the ladder of a network on disk, see `ladder`.

    Args:
        weights, inputs, call: see `sources.trace_files`.
        options: `network`, `key`, `overrides` and `load_workdir` of `sources.load_weights`.
    """
    loaded = load_weights(weights, **options)
    args = read_inputs(inputs, loaded.network, loaded.module)
    kwargs = keywords(loaded.network, loaded.module, call or {})
    return ladder(loaded.module, loaded.variables, *args, network=loaded.network, **kwargs)


@contextmanager
def _float64() -> Iterator[None]:
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield


def _wider(compute: str) -> str:
    """Returns the dtype of parameters and images for a dtype of the computation."""
    return "float64" if compute == "float64" else "float32"


def _psnr(a: Trace, b: Trace) -> float:
    """Returns the PSNR of two traces' images in [-1, 1], NaN if they have none."""
    for first, second in zip(a.entries[::-1], b.entries[::-1], strict=False):
        if first.name.startswith("output") and len(first.shape) == 4 and first.shape[1] == 3:
            error = np.mean((first.array.astype(np.float64) - second.array) ** 2)
            return 10 * math.log10(4 / error) if error else math.inf
    return math.nan
