"""Gain of small restoration networks at 64 px, by what is varied of the demo; three stages each.

    python benchmarks/model_choices.py IMAGES --workdir=DIR [--only=NAME,...]

Every variant trains the demo's three stages with fewer steps on a folder of faces, a tenth of them
held out, and prints the gain at w = 1 over the degraded input. A second run resumes. The result
set the batch of the network that ships, see docs/model_card.md.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
STEPS = {"vqgan": 400, "code_prediction": 150, "restoration": 300}
# Settings that differ from the demo's; "steps" multiplies the steps of every stage.
VARIANTS = {
    "demo": {},
    "batch 4, twice the steps": {"data.batch_size": 4, "steps": 2},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images", type=pathlib.Path, help="folder of faces to train on")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="folder of the runs")
    parser.add_argument("--only", help="names of variants, separated by commas")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(VARIANTS)
    results = {}
    for name in names:
        began = time.perf_counter()
        folder = arguments.workdir / name.replace(" ", "_").replace(",", "")
        previous = train(folder, arguments.images, dict(VARIANTS[name]))
        run("eval.py", f"--workdir={previous}", f"--output={folder}", "--force")
        means = json.loads((folder / "metrics.json").read_text())["means"]
        gains = {score: means["w=1"][score] - means["input"][score] for score in ("psnr", "ssim")}
        results[name] = {
            "input_psnr": round(means["input"]["psnr"], 2),
            **{f"{score}_gain": round(gain, 3) for score, gain in gains.items()},
            "minutes": round((time.perf_counter() - began) / 60, 1),
        }
        print(json.dumps({name: results[name]}), flush=True)
    print(json.dumps(results, indent=2))


def train(folder: pathlib.Path, images: pathlib.Path, settings: dict) -> pathlib.Path:
    """Trains the three stages of a variant and returns the last workdir."""
    factor, previous = settings.pop("steps", 1), None
    for stage, steps in STEPS.items():
        workdir = folder / stage
        changed = {
            **settings,
            "steps": steps * factor,
            "data.path": images.absolute(),
            "eval_every": 10**6,
            "checkpoint_every": 200,
            "teacher_min_psnr": 5.0,
        }
        if stage == "vqgan":
            del changed["teacher_min_psnr"]
        else:
            changed["init_from"] = previous
        if stage != "code_prediction":
            changed["loss.gan_start"] = int(0.8 * steps * factor)
        flags = [f"--config.{key}={value}" for key, value in changed.items()]
        run("train.py", f"--config=configs/demo.py:{stage}", f"--workdir={workdir}", *flags)
        previous = workdir
    return previous


def run(*command: str) -> None:
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
