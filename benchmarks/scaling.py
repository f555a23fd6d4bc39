"""Weak and strong scaling of stages I to III at 512 px, on paper: nothing is run or timed.

    python benchmarks/scaling.py [--stages vqgan code_prediction restoration] [--chip 'TPU v5e']
        [--weak 2] [--strong 256]

Traces the published steps (all losses on, bfloat16) for one image, counts their operations before
compilation, and prints Markdown: for 8 to 256 chips in one slice, and for 256 in two and four, what
the parts of a step take at the published peaks of `train/estimate.py`. All chips sum the gradients,
in float32. Memory traffic is a lower bound: each byte that an image keeps for its gradients is
written and read once; docs/memory.md has them in float32 without remat, and bfloat16 takes half.
Efficiency is the time of a chip alone over that time plus the sums, as if none overlapped.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax

from codeformer_jax.system import parallel
from codeformer_jax.tasks import make_task
from codeformer_jax.train import plan
from codeformer_jax.train.estimate import CHIPS, step_times, traffic_by_axis
from codeformer_jax.train.step import make_step
from codeformer_jax.train.traffic import Collective
from configs.demo import STAGES

# MiB an image keeps in float32 without remat (docs/memory.md).
KEPT = {"vqgan": 5771, "code_prediction": 2248, "restoration": 5420}
# Chips and slices.
SIZES = ((8, 1), (16, 1), (32, 1), (64, 1), (128, 1), (256, 1), (256, 2), (256, 4))


def facts(stage: str) -> tuple[float, int]:
    """Operations of an image, and bytes of the gradients of a step."""
    config = STAGES[stage]().unlock()
    config.steps, config.data.batch_size, config.mesh = 1, 1, "data:1"
    config.model.dtype = "bfloat16"
    if stage != "code_prediction":
        config.loss.gan_start = 0
    task, mesh = make_task(config), parallel.make_mesh("data:1", jax.devices()[:1])
    arguments = plan.abstract_arguments(task, config, mesh)
    sharding = jax.tree.map(lambda x: x.sharding, arguments[0])
    lowered = make_step(task, mesh, sharding).lower(*arguments, task.phase(0))
    state = arguments[0]
    optimizers = [state.opt_state]
    if state.discriminator is not None:
        optimizers.append(state.discriminator.opt_state)
    # Adam keeps two moments of every parameter that it trains, in float32.
    moments = sum(x.size for x in jax.tree.leaves(optimizers) if x.ndim)
    return lowered.cost_analysis()["flops"], moments // 2 * 4


def row(*cells) -> None:
    """Prints a row of a table."""
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def scale(stage: str, chip: str, weak: int, strong: int, flops: float, gradients: int) -> None:
    """Prints a stage's rows: the sums of a step, then weak and strong scaling."""
    for chips, slices in SIZES:
        whole = {"slice": slices, "data": chips // slices}
        axes = {name: size for name, size in whole.items() if size > 1}
        reduced = Collective(
            "all-reduce", tuple(axes), tuple(axes.values()), ((gradients, ()),), 1, ""
        )
        cells = []
        for images in (weak, strong / chips):
            traffic = images * KEPT[stage] * 2**20  # Written and read once; bfloat16 halves it.
            time = step_times(images * flops, traffic, traffic_by_axis([reduced]))[chip]
            parts = {part: getattr(time, part) for part in ("operations", "memory")}
            alone = max(parts.values())
            sums = {"links": time.links, "network": time.network}
            most = alone + sum(sums.values())
            limit = max(parts | sums, key=(parts | sums).get)
            cells += [f"{images:g}", f"{alone * 1e3:.1f}", f"{images * chips / most:,.0f}"]
            cells += [f"{alone / most:.0%}", limit]
        size = chips if slices == 1 else f"{chips} in {slices} slices"
        row(stage, size, *(f"{seconds * 1e3:.2f}" for seconds in sums.values()), *cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    tpus = [name for name in CHIPS if name.startswith("TPU")]  # NVLink joins a few GPUs only.
    parser.add_argument("--chip", default="TPU v5e", choices=tpus)
    parser.add_argument("--weak", type=int, default=2, help="images of each chip")
    parser.add_argument("--strong", type=int, default=256, help="images of all chips")
    arguments = parser.parse_args()
    kinds = ("images a chip", "alone, ms", "images/s", "efficiency", "limit")
    headings = (f"{scaling}: {kind}" for scaling in ("weak", "strong") for kind in kinds)
    row("stage", "chips", "links, ms", "network, ms", *headings)
    row(*["---"] * 14)
    for stage in arguments.stages:
        flops, gradients = facts(stage)
        print(f"{stage}: {flops / 1e12:.3f} TFLOP, {gradients / 2**20:.0f} MiB", file=sys.stderr)
        scale(stage, arguments.chip, arguments.weak, arguments.strong, flops, gradients)


if __name__ == "__main__":
    main()
