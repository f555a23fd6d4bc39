"""Seconds per training step of the three stages, against the published PyTorch code.

    python benchmarks/train_step.py --reference DIR [--size 128] [--batch 2] [--rounds 5]
        [--stages ...] [--dtypes float32] [--variants ...] [--device cpu] [--json FILE]

Both sides start from the same seeded weights of the full published networks and take the same whole
step on the same batch: teacher, forward, all losses, backward, discriminator's step, Adam, moving
average (`torch_steps.py` has PyTorch's; its networks and losses come from the checkout). Ours asks
for huge pages, as the Makefile does; GLIBC_TUNABLES set outside holds for both. PyTorch runs as
shipped (eager, contiguous) and in the other `--variants`. Each runs in its own process, and all
take turns: ten steps each, of whose last five the median counts, since the first ones after a pause
pay for memory that the system took back meanwhile (up to twice the time of a step for four steps;
a training run makes no pauses). `ratio` is the median over the rounds of
PyTorch's seconds / ours: above 1 this project is faster. `share_of_peak` is the step's operations,
as our compiler counts them, per second of ours, of the device's peak; on a CPU, of what a large
matrix product reaches there. On a GPU give `--device cuda --size 512 --dtypes float32 bfloat16`:
float32 is TF32, bfloat16 is compared with autocast. Prints one JSON object.
"""

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time

import numpy as np
import seeded_steps
from step_worker import Job, Worker, check_variants, prepare

# Steps of a turn, and how many of the last ones count.
TURN, COUNTED = 10, 5
# PyTorch's variants that each dtype of ours is compared with.
VARIANTS = {
    ("cpu", "float32"): ("as_shipped", "channels_last"),
    ("cuda", "float32"): ("as_shipped", "best"),
    ("cuda", "bfloat16"): ("as_shipped", "autocast", "best_autocast"),
}


def matrix_tflops(side=3072, repeats=4):
    """TFLOP/s of the best of a few float32 matrix products on this CPU, NumPy's or PyTorch's."""
    import torch  # noqa: PLC0415

    a, b = (np.random.default_rng(i).random((side, side), np.float32) for i in range(2))
    seconds = []
    for convert in (np.asarray, torch.from_numpy):
        left, right = convert(a), convert(b)
        for _ in range(repeats):
            start = time.perf_counter()
            left @ right
            seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds) / 1e12


def compare(stage, dtype, arguments, peak):
    """Every variant in turn on one stage."""
    variants = arguments.variants or VARIANTS[arguments.device, dtype]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        prepare(folder, arguments.reference, stage, arguments.size, arguments.batch)
        job = {
            "stage": stage, "size": arguments.size, "batch": arguments.batch, "folder": folder,
            "reference": arguments.reference, "device": arguments.device, "dtype": dtype,
        }  # fmt: skip
        jobs = {"jax": Job("jax", **job)}
        jobs |= {name: Job("torch", variant=name, **job) for name in variants}
        workers = {}
        for name, one in jobs.items():
            workers[name] = Worker(one)
            stack.callback(workers[name].process.kill)
        seconds = {name: [] for name in workers}
        for turn in range(arguments.rounds):
            # Who goes first alternates: neither always meets the other's leftovers in the caches.
            for name in sorted(workers, reverse=bool(turn % 2)):
                taken = [workers[name].seconds() for _ in range(TURN)]
                seconds[name].append(statistics.median(taken[-COUNTED:]))
        report = {"stage": stage, "dtype": dtype}
        for name, worker in workers.items():
            report[name] = {
                "seconds": statistics.median(seconds[name]),
                "fastest_seconds": min(seconds[name]),
                **worker.about,
                "peak_mib": worker.close(),
            }
    ours = report["jax"]
    for name in variants:
        pairs = zip(seconds[name], seconds["jax"], strict=True)
        report[name]["ratio"] = statistics.median(t / o for t, o in pairs)
        report[name]["loss_difference"] = abs(ours["loss"] / report[name]["loss"] - 1)
    peak = ours["peak_tflops"] or peak
    ours["tflops"] = ours["flops"] / ours["seconds"] / 1e12
    ours["share_of_peak"] = ours["tflops"] / peak if peak else None
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", required=True, metavar="DIR", help="the published code")
    parser.add_argument("--size", type=int, default=128, help="pixels; default %(default)s")
    parser.add_argument("--batch", type=int, default=2, help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="turns; default %(default)s")
    parser.add_argument(
        "--stages", nargs="+", default=seeded_steps.STAGES, choices=seeded_steps.STAGES
    )
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=("float32", "bfloat16"))
    parser.add_argument("--variants", nargs="+", help="of PyTorch; default by device and dtype")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--json", metavar="FILE", help="also write the report there")
    arguments = parser.parse_args()
    if arguments.size % 32 or arguments.rounds < 1 or arguments.batch < 1:
        parser.error("--size must be a multiple of 32, --rounds and --batch at least 1")
    if arguments.device == "cpu" and arguments.dtypes != ["float32"]:
        parser.error("bfloat16 is compared on a GPU: XLA's CPU compiler holds it as float32")
    check_variants(parser, arguments.variants or (), arguments.device)
    peak = matrix_tflops() if arguments.device == "cpu" else None
    report = {
        "size": arguments.size,
        "batch": arguments.batch,
        "rounds": arguments.rounds,
        "steps_of_a_turn": TURN,
        "of_which_count": COUNTED,
        "cores": len(os.sched_getaffinity(0)),
        "matrix_tflops": peak,
        "results": [
            compare(stage, dtype, arguments, peak)
            for stage in arguments.stages
            for dtype in arguments.dtypes
        ],
    }
    print(json.dumps(report, indent=2))
    if arguments.json:
        seeded_steps.dump(arguments.json, report)


if __name__ == "__main__":
    main()
