"""Memory of a training step per image at 512 px, with and without rematerialisation.

    python benchmarks/memory.py [--stages vqgan code_prediction restoration] [--batches 1 2 3 4]
        [--policies none dots full] [--dtype float32] [--topology v5e:2x2]
    python benchmarks/memory.py --reference DIR [--batches 1 2] [--policies none dots full]
        [--variants as_shipped channels_last] [--device cuda] [--json FILE]

Compiles the published steps (both adversarial parts on) for one device, runs nothing, and prints
JSON: for each stage and policy the bytes that the compiler assigns for each batch, and the slope
(bytes per image) and intercept of a line through them, so that a machine's memory divides into
images. Without an accelerator or libtpu (`--topology`, whose slice then stands for each of its
chips) the figures are those of XLA's CPU compiler, which fuses otherwise and holds bfloat16 as
float32. `flops` tells what a policy's memory costs in operations.

With a checkout of the published PyTorch code as `--reference`, real steps are taken instead, by
both programs on the same seeded weights and batch, each in a process of its own (`step_worker.py`).
On a CPU the peak is that of the process's resident memory during a step after the first, which does
not see compilation; on a GPU what `torch.cuda.max_memory_allocated` and XLA's statistics say.
"""

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from codeformer_jax.nn.remat import POLICIES
from codeformer_jax.train import plan
from configs import codeformer_stage2, codeformer_stage3, vqgan

STAGES = {
    "vqgan": vqgan.get_config,
    "code_prediction": codeformer_stage2.get_config,
    "restoration": codeformer_stage3.get_config,
}


def stage_config(stage: str, policy: str, batch: int, arguments: argparse.Namespace):
    """The published config as one compiled step: that of the phase with all its losses."""
    config = STAGES[stage]().unlock()
    config.steps = 1
    config.model.remat = None if policy == "none" else policy
    config.model.dtype = arguments.dtype
    config.train.topology = arguments.topology
    config.mesh = f"data:{arguments.devices}"
    config.data.batch_size = batch * arguments.devices
    if stage != "code_prediction":
        config.loss.gan_start = 0
    return config


def measure(stage: str, policy: str, arguments: argparse.Namespace) -> dict:
    """Peaks of each batch and the line through them, in MiB."""
    plans = [plan.make_plan(stage_config(stage, policy, b, arguments)) for b in arguments.batches]
    costs = [made.steps[0] for made in plans]
    peaks = [cost.peak / 2**20 for cost in costs]
    line = np.polyfit(arguments.batches, peaks, 1) if len(peaks) > 1 else [None, None]
    return {
        "stage": stage,
        "policy": policy,
        "peak_mib": dict(zip(arguments.batches, np.round(peaks, 1).tolist(), strict=True)),
        "mib_per_image": line[0] and round(line[0], 1),
        "mib_without_images": line[1] and round(line[1], 1),
        "tflop_per_image": round(costs[-1].flops / arguments.batches[-1] / 1e12, 3),
        "compiled_for": plans[0].platform,
    }


def measure_both(stage: str, arguments: argparse.Namespace) -> dict:
    """Peaks in MiB of real steps: PyTorch's by variant, ours by policy."""
    import step_worker  # noqa: PLC0415

    size, device = arguments.size, arguments.device
    peaks = {}
    for batch in arguments.batches:
        with tempfile.TemporaryDirectory() as folder:
            step_worker.prepare(folder, arguments.reference, stage, size, batch, device)
            common = (stage, size, batch, folder, arguments.reference)
            jobs = {
                f"PyTorch, {name}": step_worker.Job("torch", *common, variant=name, device=device)
                for name in arguments.variants
            } | {
                f"ours, remat {name}": step_worker.Job("jax", *common, remat=name, device=device)
                for name in arguments.policies
            }
            for name, job in jobs.items():
                worker = step_worker.Worker(job)
                worker.seconds()
                peaks.setdefault(name, {})[batch] = round(worker.close(), 1)
    rows = {name: {"peak_mib": row} for name, row in peaks.items()}
    if len(arguments.batches) > 1:
        for row in rows.values():
            line = np.polyfit(arguments.batches, [*row["peak_mib"].values()], 1)
            row |= {"mib_per_image": round(line[0], 1), "mib_without_images": round(line[1], 1)}
    return {"stage": stage, **rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stages", nargs="+", default=[*STAGES], choices=STAGES)
    parser.add_argument("--batches", nargs="+", type=int, help="default 1 2 3 4, or 1 2 of steps")
    choices = ["none", *POLICIES]
    parser.add_argument("--policies", nargs="+", default=["none", "dots", "full"], choices=choices)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--topology", help="TPU slice to compile for, such as v5e:2x2")
    parser.add_argument("--devices", type=int, default=1, help="those of the topology to use")
    parser.add_argument("--reference", metavar="DIR", help="the published PyTorch code")
    parser.add_argument("--variants", nargs="+", default=["as_shipped"], help="of PyTorch")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="for --reference")
    parser.add_argument("--size", type=int, default=512, help="pixels, for --reference")
    parser.add_argument("--json", metavar="FILE", help="also write the report there")
    arguments = parser.parse_args()
    arguments.batches = arguments.batches or ([1, 2] if arguments.reference else [1, 2, 3, 4])
    if arguments.reference:
        import step_worker  # noqa: PLC0415

        step_worker.check_variants(parser, arguments.variants, arguments.device)
    results = []
    for stage in arguments.stages if arguments.reference else ():
        results.append(measure_both(stage, arguments))
        print(json.dumps(results[-1]), flush=True)
    for stage in () if arguments.reference else arguments.stages:
        for policy in arguments.policies:
            results.append(measure(stage, policy, arguments))
            print(json.dumps(results[-1]), flush=True)
    about = {"jax": jax.__version__, "machine": platform.machine(), "dtype": arguments.dtype}
    size = arguments.size if arguments.reference else 512
    report = json.dumps({**about, "image_size": size, "results": results}, indent=2)
    print(report)
    if arguments.json:
        Path(arguments.json).write_text(report + "\n")


if __name__ == "__main__":
    main()
