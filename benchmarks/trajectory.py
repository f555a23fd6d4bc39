"""Twenty training steps of each stage against the same loop around the published PyTorch code.

    python benchmarks/trajectory.py --reference DIR [--size 128] [--batch 2] [--steps 20]
        [--stages vqgan code_prediction restoration] [--dtype float64 | --each-step]
        [--plot PNG] [--json FILE]

`--reference` takes a checkout of the published code, whose networks and losses are imported from
there (`reference.py`); the loop around them is written here (`torch_steps.py`). Both sides start
from the same seeded weights of the full published networks, see the same seeded images in the same
order, degraded once by the stage's recipe, and take consecutive steps of Adam in float32, with the
published losses, rates and quirks; the discriminator trains from the first step. Prints every loss
of every step with its relative difference and exits with 1 where one is above the bound, 1e-3.

PyTorch runs a second time, on one thread: how far it then lies from itself is what the order of
sums alone does (`floor`). `--gain` is the size of the seeded weights that only normalisations read:
the losses have kinks (L1, LeakyReLU, VGG's ReLU), codes are chosen, and Adam's first steps are
signs, so that at gain 1 no two float32 programs stay together for long, PyTorch and PyTorch among
them.

With `--dtype float64` both programs compute the same loop in double precision, from the same
weights and images: what rounding alone had driven apart stays together.

With `--each-step` no course of ours is taken: each of PyTorch's steps is compared on its own, from
PyTorch's state before it, and its gradient and its update besides the losses (`each_step.py`).
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import each_step
import numpy as np
import seeded_steps

BOUND = 1e-3
# Not losses, but factors in one: printed, not bounded.
FACTORS = ("adaptive_weight", "adaptive_ratio")


def torch_curve(folder, arguments, threads=None):
    """Losses, codes and targets of every step in PyTorch."""
    weights = seeded_steps.read_weights(folder / "weights.npz")
    _, run = each_step.make_torch(arguments, weights)
    threads = threads or len(os.sched_getaffinity(0))
    return [run(threads, pair, step) for step, pair in enumerate(batches(folder, arguments.batch))]


def jax_curve(folder, arguments):
    """The same of this project, and the margin by which each code was chosen."""
    weights = seeded_steps.read_weights(folder / "weights.npz")
    state, _, run = each_step.make_jax(arguments, weights, observer)
    curve = []
    for pair in batches(folder, arguments.batch):
        state, seen = run(state, pair)
        curve.append(seen)
    return curve


def each_step_curves(folder, arguments):
    """Both curves, and `apart`, where every step of ours starts from PyTorch's state."""
    return each_step.curves(folder, arguments, batches, observer)


def observer(task):
    """(state, frozen, clean, degraded) -> codes, their margins over the second best, targets.

    A margin is relative to the distance in stage I and a difference of logits in the others.
    """
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    from codeformer_jax.nn.quantizer import squared_distances  # noqa: PLC0415

    def observe(state, frozen, clean, degraded):
        if task.network == "vqgan":
            latents = task.module.apply({"params": state.params}, clean).latents
            flat = latents.reshape(-1, latents.shape[-1])
            distances = squared_distances(flat, state.params["quantize"]["embedding"])
            best, codes = jax.lax.top_k(-distances, 2)
            margins = (best[:, 0] - best[:, 1]) / -best[:, 0]
            return {"codes": codes[:, 0], "margins": margins, "targets": jnp.zeros(0)}
        logits = task.module.apply({"params": state.params}, degraded, w=0.0).logits
        best, codes = jax.lax.top_k(logits, 2)
        targets = task.targets(frozen, clean).indices
        return {"codes": codes[..., 0], "margins": best[..., 0] - best[..., 1], "targets": targets}

    return observe


def batches(folder, batch):
    """Pairs of clean and degraded batches."""
    with np.load(folder / "images.npz") as file:
        clean, degraded = file["clean"], file["degraded"]
    for start in range(0, len(clean), batch):
        yield clean[start : start + batch], degraded[start : start + batch]


def write_weights(folder, arguments):
    seeded_steps.write_weights(
        arguments.reference, arguments.stage, arguments.size, folder / "weights.npz", arguments.gain
    )


def write_images(folder, arguments):
    clean = seeded_steps.clean_images(arguments.size, arguments.steps * arguments.batch)
    degraded = seeded_steps.degraded_images(arguments.stage, clean, arguments.batch)
    np.savez(folder / "images.npz", clean=clean, degraded=degraded)


WORKERS = {
    "weights": write_weights,
    "images": write_images,
    "torch": torch_curve,
    "torch_again": functools.partial(torch_curve, threads=1),
    "jax": jax_curve,
    "each_step": each_step_curves,
}


def run(worker, stage, folder, arguments):
    """Returns the result of a worker in a separate process, so that memory is bounded."""
    path = folder / f"{worker}.json"
    if path.exists():
        return json.loads(path.read_text())
    values = ("reference", "size", "batch", "steps", "gain", "dtype")
    options = [f"--{name}={getattr(arguments, name)}" for name in values]
    command = [sys.executable, __file__, f"--worker={worker}", f"--stage={stage}"]
    environment = {"JAX_PLATFORMS": "cpu", **os.environ}
    subprocess.run([*command, f"--folder={folder}", *options], check=True, env=environment)
    return json.loads(path.read_text())


def compare(stage, folder, arguments):
    """Curves of one stage and what differs between them."""
    for worker in ("weights", "images"):
        run(worker, stage, folder, arguments)
    if arguments.each_step:
        sides = run("each_step", stage, folder, arguments)
        apart = {name: sides.pop(name) for name in ("apart", "apart_again")}
    else:
        alone = ("torch", "torch_again", "jax")
        sides, apart = {name: run(name, stage, folder, arguments) for name in alone}, {}
    names = list(sides["torch"][0]["losses"])
    curves = {
        side: {name: [step["losses"][name] for step in curve] for name in names}
        for side, curve in sides.items()
    }
    difference = differences(curves["jax"], curves["torch"])
    floor = differences(curves["torch_again"], curves["torch"])
    return {
        "stage": stage,
        "torch": curves["torch"],
        "jax": curves["jax"],
        "relative_difference": difference,
        "floor": floor,
        "worst": {name: max(values) for name, values in difference.items()},
        "worst_floor": {name: max(values) for name, values in floor.items()},
        "codes": count_codes(sides["jax"], sides["torch"]),
        **{name: by_network(steps) for name, steps in apart.items()},
    }


def by_network(steps):
    """{network: {quantity: [of every step]}} of a list of {network: {quantity: value}}."""
    return {
        network: {name: [step[network][name] for step in steps] for name in quantities}
        for network, quantities in steps[0].items()
    }


def differences(ours, theirs):
    """{name: |ours - theirs| / |theirs| of every step}.

    The generator's adversarial term changes its sign: it is a part of the loss, and so is measured
    by the whole loss.
    """
    return {
        name: [
            abs(o - t) / max(abs(whole), 1e-30)
            for o, t, whole in zip(
                ours[name], theirs[name], theirs["loss" if name == "gan" else name], strict=True
            )
        ]
        for name in theirs
    }


def count_codes(ours, theirs):
    """Counts codes and targets, and those that differ, with the margin that each was chosen by."""
    flips, margins, targets = [], [], 0
    for step, (o, t) in enumerate(zip(ours, theirs, strict=True)):
        targets += sum(a != b for a, b in zip(o["targets"], t["targets"], strict=True))
        margins += o["margins"]
        for a, b, margin in zip(o["codes"], t["codes"], o["margins"], strict=True):
            if a != b:
                flips.append({"step": step, "margin": margin})
    return {
        "chosen": len(margins),
        "smallest_margin": min(margins),
        "different": flips,
        "different_targets": targets,
        "distinct": len({code for step in theirs for code in step["codes"]}),
    }


def report(result):
    """Prints the steps of a stage and the worst difference of each of its losses."""
    print(f"\n{result['stage']}: PyTorch's losses, relative difference of ours")
    for step in range(len(result["torch"]["loss"])):
        cells = [
            f"{name} {values[step]:.6g} ({result['relative_difference'][name][step]:.0e})"
            for name, values in result["torch"].items()
        ]
        print(f"{step:3d}  " + "  ".join(cells))
    for row in ("worst", "worst_floor"):
        print(row + "  " + "  ".join(f"{name} {value:.1e}" for name, value in result[row].items()))
    for row in ("apart", "apart_again"):
        for network, quantities in result.get(row, {}).items():
            cells = [
                f"{name} median {median(values):.1e} worst {max(values):.1e}"
                for name, values in quantities.items()
            ]
            print(f"{row}  {network}  " + "  ".join(cells))
    print("codes " + json.dumps(result["codes"]), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", required=True, metavar="DIR", help="the published code")
    parser.add_argument("--size", type=int, default=128, help="pixels; default %(default)s")
    parser.add_argument("--batch", type=int, default=2, help="default %(default)s")
    parser.add_argument("--steps", type=int, default=20, help="default %(default)s")
    parser.add_argument("--gain", type=float, default=30.0, help="default %(default)s")
    parser.add_argument(
        "--stages", nargs="+", default=seeded_steps.STAGES, choices=seeded_steps.STAGES
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "float64"),
        help="of both programs; default %(default)s",
    )
    parser.add_argument(
        "--each-step",
        action="store_true",
        help="start each of our steps from PyTorch's state before it",
    )
    parser.add_argument("--plot", metavar="PNG", help="draw the curves")
    parser.add_argument("--json", metavar="FILE", help="write everything measured")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="keep curves there; what it has is not run again"
    )
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.size % 32 or arguments.steps < 1 or arguments.batch < 1:
        parser.error("--size must be a multiple of 32, --steps and --batch at least 1")
    if arguments.each_step and arguments.dtype != "float32":
        parser.error("--each-step compares the float32 steps; leave --dtype out")
    if arguments.worker:
        curve = WORKERS[arguments.worker](arguments.folder, arguments)
        seeded_steps.dump(arguments.folder / f"{arguments.worker}.json", curve)
        return
    results = []
    for stage in arguments.stages:
        with tempfile.TemporaryDirectory() as temporary:
            folder = (arguments.work or Path(temporary)) / stage
            folder.mkdir(parents=True, exist_ok=True)
            results.append(compare(stage, folder, arguments))
        report(results[-1])
    names = ("size", "batch", "steps", "gain", "dtype", "each_step")
    about = {name: getattr(arguments, name) for name in names}
    if arguments.json:
        seeded_steps.dump(arguments.json, {**about, "bound": BOUND, "results": results})
    if arguments.plot:
        import trajectory_plot  # noqa: PLC0415

        trajectory_plot.draw(results, BOUND, arguments.plot)
    worst, floor = (
        max(v for r in results for name, v in r[key].items() if name not in FACTORS)
        for key in ("worst", "worst_floor")
    )
    print(f"worst relative difference of any loss at any step: {worst:.2e} (bound {BOUND:g})")
    print(f"of PyTorch from itself with another order of sums: {floor:.2e}")
    sys.exit(worst > BOUND)


if __name__ == "__main__":
    main()
