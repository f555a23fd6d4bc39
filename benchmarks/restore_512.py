"""Seconds per image and peak memory of the full CodeFormer at 512 px, against PyTorch.

    python benchmarks/restore_512.py [--rounds 5] [--w 0.5] [--command-line]

Both networks have the same seeded weights and see the same image, in float32 on all cores that this
process may use; PyTorch runs channels-last. Each lives in its own process, so that its peak memory
is its own, and the two take turns. `ratio` is the median over the rounds of ours / PyTorch;
`relative_l2` compares the two restored images. `--command-line` also restores PNG files through
`codeformer-jax restore`, start-up and compilation included. Prints one JSON object.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PARITY = ROOT / "tests" / "parity"
SIZE, SEED = 512, 0
COMMAND = "import sys; from codeformer_jax.cli import main; sys.exit(main())"


def seeded_inputs():
    """PyTorch state dict of the parity fixture and its image [1, 512, 512, 3] in [-1, 1]."""
    sys.path.insert(0, str(PARITY))
    import seeded  # noqa: PLC0415

    with np.load(PARITY / f"codeformer_{SEED}.npz") as fixture:
        shapes = json.loads(str(fixture["shapes"]))
    image = 2 * seeded.seeded_image(SIZE, SIZE, SEED)[None] - 1
    return seeded.seeded_state_dict(shapes, SEED), image


def torch_runner(w):
    """Function that restores the image with PyTorch."""
    import torch  # noqa: PLC0415
    import torch_codeformer  # noqa: PLC0415

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    state_dict, image = seeded_inputs()
    network = torch_codeformer.from_state_dict(state_dict)
    images = torch.from_numpy(image).permute(0, 3, 1, 2)

    def run():
        with torch.inference_mode():
            return network(images, w, True)[0].permute(0, 2, 3, 1).numpy()

    return run


def jax_runner(w):
    """Function that restores the image with this package's network."""
    import jax  # noqa: PLC0415

    from codeformer_jax.convert import from_torch  # noqa: PLC0415

    state_dict, image = seeded_inputs()
    module, variables = from_torch("codeformer", state_dict)
    del state_dict
    variables, image = jax.device_put((variables, image))
    network = jax.jit(lambda variables, x, w: module.apply(variables, x, w=w, adain=True).image)
    return lambda: np.asarray(network(variables, image, w))


def serve(runner, output):
    """Restores once per line of standard input and answers with the seconds that it took."""
    start = time.perf_counter()
    np.save(output, runner())
    print(json.dumps({"first_seconds": time.perf_counter() - start}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        runner()
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_memory_mib": peak}), flush=True)


class Worker:
    """A process that serves one of the two networks."""

    def __init__(self, name, w, output):
        command = [sys.executable, __file__, "--serve", name, "--w", str(w), "--output", output]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )
        self.first_seconds = self._answer("first_seconds")

    def _answer(self, name):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended early with exit code {self.process.wait()}")
        return json.loads(line)[name]

    def seconds(self):
        """Seconds of one more restoration."""
        self.process.stdin.write("again\n")
        self.process.stdin.flush()
        return self._answer("seconds")

    def close(self):
        """Ends the process and returns its peak memory in MiB."""
        self.process.stdin.close()
        peak = self._answer("peak_memory_mib")
        self.process.wait()
        return peak


def environment():
    """This process's environment with the package importable and JAX on the CPU."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    joined = os.pathsep.join(path for path in paths if path)
    return {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": joined}


def compare(rounds, w):
    """Both networks in turn: the figures of each, their ratio and how far the images differ."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        outputs = {name: str(Path(folder) / f"{name}.npy") for name in ("torch", "jax")}
        workers = {name: Worker(name, w, output) for name, output in outputs.items()}
        for worker in workers.values():
            stack.callback(worker.process.kill)
        seconds = {name: [] for name in workers}
        for turn in range(rounds):
            # Who goes first alternates: neither always meets the other's leftovers in the caches.
            for name in sorted(workers, reverse=bool(turn % 2)):
                seconds[name].append(workers[name].seconds())
        images = {name: np.load(output) for name, output in outputs.items()}
        report = {
            name: {
                "seconds_per_image": statistics.median(seconds[name]),
                "fastest_seconds": min(seconds[name]),
                "first_seconds": worker.first_seconds,
                "peak_memory_mib": worker.close(),
            }
            for name, worker in workers.items()
        }
    pairs = zip(seconds["jax"], seconds["torch"], strict=True)
    difference = np.linalg.norm(images["jax"] - images["torch"]) / np.linalg.norm(images["torch"])
    report["ratio"] = statistics.median(ours / theirs for ours, theirs in pairs)
    report["relative_l2"] = float(difference)
    return report


def command_line(w, count):
    """`codeformer-jax restore` of one and of `count` images: seconds, and the peak memory."""
    from PIL import Image  # noqa: PLC0415

    from codeformer_jax.convert import from_torch, save_model  # noqa: PLC0415

    state_dict, image = seeded_inputs()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model, inputs = folder / "codeformer.safetensors", folder / "inputs"
        save_model(model, "codeformer", *from_torch("codeformer", state_dict))
        inputs.mkdir()
        pixels = np.round(127.5 * (image[0] + 1)).astype(np.uint8)
        for index in range(count):
            Image.fromarray(np.roll(pixels, index, axis=1)).save(inputs / f"{index}.png")
        runs = {}
        for source in (inputs / "0.png", inputs):
            output = folder / f"restored_{source.stem}"
            arguments = [
                "restore",
                source,
                "-o",
                output,
                "--checkpoint",
                model,
                "-w",
                str(w),
                "--aligned",
            ]
            start = time.perf_counter()
            with subprocess.Popen(
                [sys.executable, "-c", COMMAND, *map(str, arguments)],
                env=environment(), stdout=subprocess.DEVNULL,
            ) as process:  # fmt: skip
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            seconds = time.perf_counter() - start
            written = len(list(output.glob("*.png")))
            expected = count if source == inputs else 1
            if process.returncode or written != expected:
                raise RuntimeError(
                    f"codeformer-jax restore left {written} of {expected} images and "
                    f"exit code {process.returncode}"
                )
            runs[expected] = (seconds, usage.ru_maxrss / 1024)
    return {
        "images": count,
        "seconds_first_image": runs[1][0],
        "seconds_per_further_image": (runs[count][0] - runs[1][0]) / (count - 1),
        "peak_memory_mib": max(peak for _, peak in runs.values()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns; default %(default)s")
    parser.add_argument("--w", type=float, default=0.5, help="fidelity; default %(default)s")
    parser.add_argument("--command-line", action="store_true", help="also time `restore`")
    parser.add_argument("--images", type=int, default=4, help="for --command-line, at least 2")
    parser.add_argument("--serve", choices=("torch", "jax"), help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rounds < 1 or args.images < 2:
        parser.error(f"--rounds {args.rounds} --images {args.images}: give at least 1 and 2")
    if args.serve:
        serve({"torch": torch_runner, "jax": jax_runner}[args.serve](args.w), args.output)
        return
    report = {"size": SIZE, "w": args.w, "adain": True, "cores": len(os.sched_getaffinity(0))}
    report |= compare(args.rounds, args.w)
    if args.command_line:
        sys.path.insert(0, str(ROOT))
        report["command_line"] = command_line(args.w, args.images)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
