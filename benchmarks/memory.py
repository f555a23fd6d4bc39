"""Memory of a training step per image at 512 px, with and without rematerialisation.

    python benchmarks/memory.py [--stages vqgan code_prediction restoration] [--batches 1 2 3 4]
        [--policies none dots full] [--dtype float32] [--topology v5e:2x2]

Compiles the published steps (both adversarial parts on) for one device, runs nothing, and prints
JSON: for each stage and policy the bytes that the compiler assigns for each batch, and the slope
(bytes per image) and intercept of a line through them, so that a machine's memory divides into
images. Without an accelerator or libtpu (`--topology`, whose slice then stands for each of its
chips) the figures are those of XLA's CPU compiler, which fuses otherwise and holds bfloat16 as
float32. `flops` tells what a policy's memory costs in operations.
"""

import argparse
import json
import platform
import sys
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stages", nargs="+", default=[*STAGES], choices=STAGES)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 3, 4])
    choices = ["none", *POLICIES]
    parser.add_argument("--policies", nargs="+", default=["none", "dots", "full"], choices=choices)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--topology", help="TPU slice to compile for, such as v5e:2x2")
    parser.add_argument("--devices", type=int, default=1, help="those of the topology to use")
    arguments = parser.parse_args()
    results = []
    for stage in arguments.stages:
        for policy in arguments.policies:
            results.append(measure(stage, policy, arguments))
            print(json.dumps(results[-1]), flush=True)
    about = {"jax": jax.__version__, "machine": platform.machine(), "dtype": arguments.dtype}
    print(json.dumps({**about, "image_size": 512, "results": results}, indent=2))


if __name__ == "__main__":
    main()
