"""Stages I to III at 512 px compiled for eight TPU chips by libtpu: nothing is run or timed.

    JAX_PLATFORMS=cpu python benchmarks/chips.py [--stages vqgan code_prediction restoration]
        [--chips v5e v5p v6e] [--dtypes bfloat16] [--images 2] [--keep DIR] [--json FILE]
    python benchmarks/chips.py --read FILE

Needs `pip install libtpu`. Compiles the published steps (all losses on) for `data:8`, reads the
optimized program and prints Markdown, all per chip; `--read` prints the tables of an earlier
`--json`. Machine code takes most of a compilation and changes none of these figures, so each
compilation is a process that ends once libtpu has written the optimized program. `--keep` keeps
the programs as text.

Bytes are those of arrays in the chip's memory, with the padding of their tiles. *Moved* is the
share of bytes in instructions that only copy, transpose, pad or slice. The estimate takes each
instruction at the longer of its operations and its bytes at the published rates of
`train/estimate.py`, one after the other, and sums over links after them.
"""

import argparse
import gzip
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax

from codeformer_jax.system.atomic import atomic_path
from codeformer_jax.tasks import make_task
from codeformer_jax.train import plan
from codeformer_jax.train.estimate import CHIPS, traffic_by_axis
from codeformer_jax.train.speed import PEAK_TFLOPS
from codeformer_jax.train.step import make_step
from codeformer_jax.train.traffic import called, collectives, trips
from configs.demo import STAGES

# Slices of eight chips, and GB of a chip's memory (the pages that docs/distributed.md lists).
SLICES = {"v5e": ("v5e:2x4", 16), "v5p": ("v5p:2x2x2", 95), "v6e": ("v6e:2x4", 32)}
COUNT = 8
# What libtpu writes last before it makes machine code, and its list of buffers.
_PROGRAM, _BUFFERS = "after_optimizations_after_buffer_assignment.txt", "buffer-assignment.txt"

_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<result>.*?) (?P<kind>[a-z][a-z0-9-]*)\((?P<rest>.*)$"
)
_ARRAY = re.compile(r"(pred|[a-z]+(\d+)\w*)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_LABELS = re.compile(r"dim_labels=\w+_(\w+)->")
_ALLOCATION = re.compile(r"^allocation \d+: size (\d+), (.*)$", re.M)

_FREE = {"parameter", "constant", "bitcast", "get-tuple-element", "tuple", "after-all"}
_FREE |= {"copy-done", "async-done", "partition-id"}
_MOVES = {"copy", "transpose", "reshape", "pad", "slice", "concatenate", "reverse"}
_MOVES |= {"dynamic-slice", "dynamic-update-slice"}
# May accompany moves: space-to-batch joins padded parts by a maximum.
_BESIDE = _FREE | {"broadcast", "convert", "select", "maximum", "iota", "compare"}
_GATHERS = {"gather", "scatter", "sort"}


@dataclass(frozen=True)
class Array:
    """Shape of an array in a program: bytes with and without the padding of its tiles."""

    dtype: str
    shape: tuple[int, ...]
    bytes: float
    padded: float
    on_chip: bool  # In the vector memory, not in the chip's main memory.


@dataclass(frozen=True)
class Instruction:
    """Instruction that a chip executes `times` times.

    Attributes:
        category: 'product', 'move', 'gather', 'prefetch', 'collective' or 'other'.
        flops, wide: operations of its products, and those with float32 inputs.
        bytes, padded: read and written in main memory, without and with padding.
    """

    name: str
    category: str
    times: int
    flops: float
    wide: float
    bytes: float
    padded: float


def arrays(text: str) -> list[Array]:
    """Reads the arrays of a result such as '(bf16[2,8]{1,0:T(8,128)(2,1)S(1)}, s32[])'."""
    found = []
    for dtype, bits, dims, order, layout in _ARRAY.findall(text):
        shape = tuple(int(n) for n in dims.split(",") if n)
        size = int(bits or 8) / 8
        minor_first = [shape[int(i)] for i in order.split(",") if i] if order else []
        tile = _TILE.match(layout)
        tile = [int(n) for n in tile[1].split(",")][::-1] if tile and shape else []
        for i, n in enumerate(tile[: len(minor_first)]):
            minor_first[i] = -(-minor_first[i] // n) * n
        padded = math.prod(minor_first) if minor_first else math.prod(shape)
        on_chip = "S(1)" in layout
        found.append(Array(dtype, shape, size * math.prod(shape), size * padded, on_chip))
    return found


def instructions(text: str) -> list[Instruction]:
    """Reads the instructions that a run of the program executes, loops as often as they turn."""
    computations, entry = _computations(text)
    times, waiting, found = {entry: 1}, [entry], []
    while waiting:
        name = waiting.pop()
        results = {line["name"]: line["result"] for line in computations[name]}
        for line in computations[name]:
            if line["kind"] in ("while", "conditional", "call"):
                for computation in called(line["rest"]):
                    times[computation] = times[name] * trips(line["rest"])
                    waiting.append(computation)
            elif line["kind"] not in _FREE:
                found.append(_instruction(line, results, computations, times[name]))
    return found


def _computations(text: str) -> tuple[dict[str, list[re.Match]], str]:
    """Returns the lines of each computation, and the name of the one that is run."""
    found, here, entry = {}, [], ""
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            here = found[header["name"]] = []
            entry = header["name"] if header["entry"] else entry
        elif match := _INSTRUCTION.match(line):
            here.append(match)
    return found, entry


def _inside(line: re.Match, results: dict, computations: dict) -> Iterator[tuple[re.Match, dict]]:
    """Yields an instruction and all that its fusion holds, with results by name."""
    yield line, results
    for name in called(line["rest"]):
        inner = computations.get(name, [])
        names = {each["name"]: each["result"] for each in inner}
        for each in inner:
            yield from _inside(each, names, computations)


def _instruction(line, results, computations, times) -> Instruction:
    parts = list(_inside(line, results, computations))
    kinds = {part["kind"] for part, _ in parts} - {"fusion"}
    products = [_product(*part) for part in parts if part[0]["kind"] in ("convolution", "dot")]
    whole = arrays(line["result"])
    if line["kind"] in ("copy-start", "async-start"):
        # Source and destination; a slice reads no more than it writes.
        used = [min((x for x in whole if x.shape), key=lambda x: x.padded)] if whole else []
    else:
        operands = _operands(line, results)
        used = [x for x in (*whole, *operands) if not x.on_chip]
    return Instruction(
        name=line["name"],
        category=_category(line["kind"], kinds),
        times=times,
        flops=times * sum(flops for flops, _ in products),
        wide=times * sum(flops for flops, wide in products if wide),
        bytes=times * sum(x.bytes for x in used),
        padded=times * sum(x.padded for x in used),
    )


def _category(kind: str, kinds: set[str]) -> str:
    if re.match(r"all-|reduce-scatter|collective|send|recv", kind):
        return "collective"
    if kinds & {"convolution", "dot"}:
        return "product"
    if kinds & _GATHERS:
        return "gather"
    if kind in ("copy-start", "async-start"):
        return "prefetch"
    return "move" if kinds & _MOVES and kinds <= _MOVES | _BESIDE else "other"


def _operands(line: re.Match, results: dict[str, str]) -> list[Array]:
    names = re.findall(r"%([\w.-]+)", line["rest"].partition(")")[0])
    return [x for name in names for x in arrays(results.get(name, ""))]


def _product(line: re.Match, results: dict[str, str]) -> tuple[float, bool]:
    """Returns operations of a convolution or dot, and whether an input is float32.

    A convolution counts every tap, also those on padding.
    """
    left, right = _operands(line, results)[:2]
    per_output = 1.0
    if line["kind"] == "dot":
        axes = _CONTRACTED.search(line["rest"])[1]
        per_output = math.prod(left.shape[int(i)] for i in axes.split(",") if i)
    else:
        per_output *= right.shape[_LABELS.search(line["rest"])[1].index("i")]
        for setting, sign in (("size", 1), ("lhs_dilate", -1)):
            if given := re.search(rf"{setting}=([\dx]+)", line["rest"]):
                per_output *= math.prod(int(n) for n in given[1].split("x")) ** sign
    wide = "f32" in (left.dtype, right.dtype)
    return 2 * math.prod(arrays(line["result"])[0].shape) * per_output, wide


def buffers(text: str) -> tuple[int, int]:
    """Returns bytes of arguments, and of all other buffers, in a chip's main memory."""
    arguments = rest = 0
    for size, about in _ALLOCATION.findall(text):
        if about.startswith("parameter"):
            arguments += int(size)
        elif not about.startswith(("color", "thread-local")):
            rest += int(size)
    return arguments, rest


def summary(program: str, allocations: str, chip: str, images: int) -> dict:
    """Returns the figures of a program for one chip; `images` are those of a chip in a step."""
    found, name = instructions(program), f"TPU {chip}"
    peak, memory = PEAK_TFLOPS[name] * 1e12, CHIPS[name].memory * 1e9
    arguments, rest = buffers(allocations)
    traffic = traffic_by_axis(collectives(program, {"data": COUNT}))
    links = sum(t.inside for t in traffic) / CHIPS[name].links / 1e9
    of = {}
    for each in found:
        of.setdefault(each.category, []).append(each)
    seconds = {
        kind: sum(max(each.flops / peak, each.padded / memory) for each in members)
        for kind, members in of.items()
    }
    flops, padded = sum(each.flops for each in found), sum(each.padded for each in found)
    parts = {"operations": flops / peak, "memory": padded / memory, "links": links}
    total = sum(seconds.values()) + links
    return {
        "arguments_gb": round(arguments / 1e9, 2),
        "temporaries_gb": round(rest / 1e9, 2),
        "of_memory": round((arguments + rest) / SLICES[chip][1] / 1e9, 3),
        "tflop": round(flops / 1e12, 3),
        "float32_products": round(sum(each.wide for each in found) / flops, 4),
        "bytes_gb": round(padded / 1e9, 1),
        "padding": round(1 - sum(each.bytes for each in found) / padded, 3),
        "moved": round(sum(each.padded for each in of.get("move", [])) / padded, 3),
        "count": {kind: sum(e.times for e in members) for kind, members in sorted(of.items())},
        "ms_of_kind": {kind: round(s * 1e3, 2) for kind, s in sorted(seconds.items())},
        "collectives": [f"{t.count} {t.kind} {t.bytes / 1e6:.0f} MB" for t in traffic],
        "ms": {part: round(s * 1e3, 2) for part, s in parts.items()} | {"all": total * 1e3},
        "images_per_second": round(images / total, 1),
        "limit": max(parts, key=parts.get),
    }


def compile_step(stage: str, dtype: str, chip: str, images: int, folder: str) -> None:
    """Compiles a step and writes libtpu's programs to `folder`; the parent ends this process."""
    config = STAGES[stage]().unlock()
    config.steps, config.mesh = 1, f"data:{COUNT}"
    config.data.batch_size, config.model.dtype = images * COUNT, dtype
    if stage != "code_prediction":
        config.loss.gan_start = 0
    task, mesh = make_task(config), plan.planned_mesh(config.mesh, SLICES[chip][0])
    arguments = plan.abstract_arguments(task, config, mesh)
    step = make_step(task, mesh, jax.tree.map(lambda x: x.sharding, arguments[0]))
    lowered = step.lower(*arguments, task.phase(0))
    lowered.compile(compiler_options={"xla_dump_to": folder, "xla_dump_hlo_as_text": True})


def optimized(stage: str, dtype: str, chip: str, images: int) -> tuple[str, str]:
    """Returns the optimized program of a step and its buffers, as text."""
    with tempfile.TemporaryDirectory() as folder:
        given = json.dumps([stage, dtype, chip, images, folder])
        worker = subprocess.Popen([sys.executable, __file__, "--compile", given])
        try:
            size, written = -1, None
            while written is None or size != (size := written.stat().st_size):
                written = next(Path(folder).glob(f"*{_PROGRAM}"), None)
                if written is None and worker.poll() is not None:
                    raise SystemExit(f"{stage} for {chip} did not compile; see above")
                time.sleep(2)
        finally:
            worker.kill()
            worker.wait()
        buffers_file = next(Path(folder).glob(f"*{_BUFFERS}"))
        return written.read_text(), buffers_file.read_text()


def table(results: list[dict]) -> str:
    """Returns Markdown of the results."""
    headings = "stage|dtype|chip|arguments + temporaries, GB|of memory|TFLOP|float32 products|GB"
    headings += "|padding|moved|moves|gathers|collectives|operations, ms|memory, ms|links, ms"
    headings += "|one by one, ms|images/s|limit"
    rows = [headings.split("|"), ["---"] * 19]
    for r in results:
        percent = [f"{r[key]:.0%}" for key in ("of_memory", "float32_products", "padding", "moved")]
        count, ms = r["count"], [f"{value:.1f}" for value in r["ms"].values()]
        cells = [r["stage"], r["dtype"], r["chip"]]
        cells += [f"{r['arguments_gb']} + {r['temporaries_gb']}", percent[0], r["tflop"]]
        cells += [percent[1], r["bytes_gb"], percent[2], percent[3], f"{count.get('move', 0):,}"]
        cells += [count.get("gather", 0), "; ".join(r["collectives"]), *ms]
        rows.append([*cells, r["images_per_second"], r["limit"]])
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--chips", nargs="+", default=list(SLICES), choices=SLICES)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"])
    parser.add_argument("--images", type=int, default=2, help="images of each chip")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="keep the programs there")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    parser.add_argument("--read", metavar="FILE", type=Path, help="print the table of a --json")
    parser.add_argument("--compile", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.compile:
        return compile_step(*json.loads(arguments.compile))
    if arguments.read:
        return print(table(json.loads(arguments.read.read_text())["results"]))
    results, images = [], arguments.images
    given = [(s, d, c) for c in arguments.chips for d in arguments.dtypes for s in arguments.stages]
    for stage, dtype, chip in given:
        program, allocations = optimized(stage, dtype, chip, images)
        if arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            with gzip.open(
                arguments.keep / f"{stage}_{dtype}_{chip}_{images}.txt.gz", "wt"
            ) as file:
                file.write(program)
        found = summary(program, allocations, chip, images)
        results.append({"stage": stage, "dtype": dtype, "chip": chip, "images": images} | found)
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
        if arguments.json:
            about = {"jax": jax.__version__, "compiled": f"for {COUNT} chips, not timed"}
            with atomic_path(Path(arguments.json)) as path:
                path.write_text(json.dumps(about | {"results": results}, indent=2) + "\n")
    return print(table(results))


if __name__ == "__main__":
    main()
