"""Where a training step's time goes on this machine, by kind of operation.

    python benchmarks/profile_step.py --reference DIR [--stage vqgan] [--size 128] [--batch 2]
        [--top 20]

Traces one step of ours with `jax.profiler` and adds up the operations of the compiled program:
convolutions (forward, and gradients by input and kernel), matrix products, and everything else
(normalisation, activations, losses, optimizer: fused loops). On a CPU operations run on several
threads at once: `seconds` add up to more than a step's time. Prints one JSON object.
"""

import argparse
import collections
import glob
import gzip
import json
import re
import tempfile

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
        return "matrix product"
    return "fused loop" if opcode == "fusion" else opcode


def events(folder):
    """(name, seconds) of everything that the trace has."""
    for path in glob.glob(f"{folder}/**/*.trace.json.gz", recursive=True):
        with gzip.open(path) as file:
            for event in json.load(file)["traceEvents"]:
                if event.get("ph") == "X":
                    yield event["name"], event["dur"] / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", required=True, metavar="DIR", help="the published code")
    parser.add_argument("--stage", default="vqgan", choices=step_worker.seeded_steps.STAGES)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--top", type=int, default=20, help="operations to list")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        one = (arguments.stage, arguments.size, arguments.batch)
        step_worker.prepare(folder, arguments.reference, *one)
        job = step_worker.Job("jax", *one, folder, arguments.reference)
        step = step_worker.JaxStep(job)
        step()
        step()
        with step.jax.profiler.trace(folder):
            step()
        program, bodies = read_program(step.step.as_text())
        totals, single = collections.Counter(), collections.Counter()
        for name, seconds in events(folder):
            # A conditional's event covers those of what it runs.
            if name in program and program[name][0] not in ("conditional", "while", "call"):
                opcode, shape, rest = program[name]
                totals[kind(opcode, rest, bodies)] += seconds
                single[name] += seconds
    listed = []
    for name, seconds in single.most_common(arguments.top):
        opcode, shape, rest = program[name]
        where = (re.search(r'op_name="([^"]*)"', rest) or ["", ""])[1]
        entry = {"seconds": round(seconds, 4), "kind": kind(opcode, rest, bodies), "shape": shape}
        listed.append(entry | {"name": where[-120:]})
    kinds = {name: round(seconds, 3) for name, seconds in totals.most_common()}
    print(json.dumps({"stage": arguments.stage, "kinds": kinds, "largest": listed}, indent=1))


if __name__ == "__main__":
    main()
