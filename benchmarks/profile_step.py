"""Profile of a training step on this machine, by kind of operation.

    python benchmarks/profile_step.py --reference DIR [--stages vqgan ...] [--size 128] [--batch 2]
        [--top 20]

Traces one step of ours with `jax.profiler` and adds up the operations of the compiled program:
convolutions and matrix products (of the forward pass, and of gradients, which are products where
`nn/cpu/conv_gradients.py` makes them so), and everything else (normalisation, activations, losses,
optimizer: fused loops). On a CPU operations run on several threads at once: seconds add up to more
than a step's time. Prints one JSON object.
"""

import argparse
import collections
import glob
import gzip
import json
import os
import re
import tempfile
import time

import step_worker

COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (\S+) ([\w-]+)\((.*)$")


def read_program(text):
    """{instruction: (opcode, result's shape, rest of the line)} and {computation: its text}."""
    found, bodies, lines = {}, {}, []
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            lines = bodies.setdefault(match.group(1), [])
        elif match := INSTRUCTION.match(line):
            name, shape, opcode, rest = match.groups()
            found[name] = (opcode, shape, rest)
            lines.append(line)
    return found, {name: "\n".join(lines) for name, lines in bodies.items()}


def kind(opcode, rest, bodies):
    """Kind of an operation: by its opcode, or by what a fusion computes."""
    called = re.search(r"calls=%?([\w.-]+)", rest)
    inside = bodies.get(called.group(1), "") if called else f" {opcode}("
    if " convolution(" in inside or (opcode == "custom-call" and "conv_general_dilated" in rest):
        line = next((x for x in inside.splitlines() if " convolution(" in x), rest)
        return "convolution, gradient" if "transpose(" in line else "convolution"
    if " dot(" in inside:
        return "matrix product, gradient" if "transpose(" in rest + inside else "matrix product"
    return "fused loop" if opcode == "fusion" else opcode


def events(folder):
    """(name, seconds) of everything that the trace has."""
    for path in glob.glob(f"{folder}/**/*.trace.json.gz", recursive=True):
        with gzip.open(path) as file:
            for event in json.load(file)["traceEvents"]:
                if event.get("ph") == "X":
                    yield event["name"], event["dur"] / 1e6


def profile(stage, arguments):
    """Seconds of a step's operations, by kind, and of the longest ones."""
    with tempfile.TemporaryDirectory() as folder:
        one = (stage, arguments.size, arguments.batch)
        step_worker.prepare(folder, arguments.reference, *one)
        step = step_worker.JaxStep(step_worker.Job("jax", *one, folder, arguments.reference))
        for _ in range(6):  # The first ones fetch their memory from the system.
            start = time.perf_counter()
            step()
            seconds = time.perf_counter() - start
        with step.jax.profiler.trace(folder):
            step()
        program, bodies = read_program(step.step.as_text())
        totals, single = collections.Counter(), collections.Counter()
        for name, taken in events(folder):
            # A conditional's event covers those of what it runs.
            if name in program and program[name][0] not in ("conditional", "while", "call"):
                opcode, shape, rest = program[name]
                totals[kind(opcode, rest, bodies)] += taken
                single[name] += taken
    listed = []
    for name, taken in single.most_common(arguments.top):
        opcode, shape, rest = program[name]
        where = (re.search(r'op_name="([^"]*)"', rest) or ["", ""])[1]
        entry = {"seconds": round(taken, 4), "kind": kind(opcode, rest, bodies), "shape": shape}
        listed.append(entry | {"name": where[-120:]})
    whole = sum(totals.values())
    kinds = {
        name: {"seconds": round(taken, 3), "share": round(taken / whole, 3)}
        for name, taken in totals.most_common()
    }
    return {
        "stage": stage,
        "step_seconds": round(seconds, 3),
        # The larger of what is written and what is compiled, as a run counts them, and the latter.
        "gflop": round(step.flops / 1e9, 1),
        "gflop_compiled": round(step.step.cost_analysis()["flops"] / 1e9, 1),
        "kinds": kinds,
        "largest": listed,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", required=True, metavar="DIR", help="the published code")
    stages = step_worker.seeded_steps.STAGES
    parser.add_argument("--stages", nargs="+", default=stages, choices=stages)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--top", type=int, default=20, help="operations to list")
    arguments = parser.parse_args()
    results = [profile(stage, arguments) for stage in arguments.stages]
    about = {
        "size": arguments.size,
        "batch": arguments.batch,
        "cores": len(os.sched_getaffinity(0)),
    }
    print(json.dumps({**about, "results": results}, indent=1))


if __name__ == "__main__":
    main()
