"""Restoration with and without AdaIN: scores and colour error on held-out images.

    python benchmarks/adain.py WORKDIR [--path FACES] [--recipe small large] [--limit 64]

WORKDIR is a run of stage II or III, such as `demo/3_restoration` of `make demo`. Images and their
degradation are those that `eval.py` takes for the same settings. The colour error of an image is
the mean over its channels of |mean of the restoration - mean of the truth|, in levels of 255;
`apart` is the mean difference of a pixel with AdaIN from one without. Prints a table and, last, one
JSON object.
"""

import argparse
import json
import sys
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from codeformer_jax.checkpoints.trained import load_trained
from codeformer_jax.data.sources import open_heldout
from codeformer_jax.degrade import Recipe, degrade
from codeformer_jax.evaluate.measure import Networks, measure
from codeformer_jax.evaluate.own_config import own_config
from codeformer_jax.system.compilation_cache import keep_compiled_programs
from configs import vqgan

BATCH = 8
ROWS = ("input", "w=0", "w=0.5", "w=1")


def pictures_and_scores(trained, source, recipe, seed, adain, limit):
    """Pictures [rows + 1, n, h, w, 3], the truth last, and {metric: [rows, n]}."""
    pictures, scores = [], []
    number = min(len(source), limit)
    for start in range(0, number, BATCH):
        indices = [min(i, number - 1) for i in range(start, start + BATCH)]
        elements = [source[i] for i in indices]
        measured = measure(
            np.stack([element["image"] for element in elements]),
            None,
            np.array(indices, np.int32),
            networks=Networks(trained.module),
            variables=(trained.variables, None, None),
            weights=np.array([0.0, 0.5, 1.0], np.float32),
            key=jax.random.key(seed),
            recipe=recipe,
            adain=adain,
            degrade_fn=degrade,
        )
        valid = min(BATCH, number - start)
        pictures.append(np.asarray(measured["pictures"])[:, :valid])
        scores.append({k: np.asarray(v)[:, :valid] for k, v in measured["scores"].items()})
    merged = {k: np.concatenate([part[k] for part in scores], axis=1) for k in scores[0]}
    return np.concatenate(pictures, axis=1).astype(np.float32), merged


def compare(trained, source, recipe, seed, limit):
    """{row: {setting: scores}} of one recipe; the input is the same in both settings."""
    found = {
        name: pictures_and_scores(trained, source, recipe, seed, adain, limit)
        for name, adain in (("off", False), ("on", True))
    }
    table = {}
    for i, row in enumerate(ROWS):
        table[row] = {}
        for name, (pictures, scores) in found.items():
            tone = pictures[i].mean(axis=(1, 2)) - pictures[-1].mean(axis=(1, 2))
            table[row][name] = {k: float(v[i].mean()) for k, v in scores.items()}
            table[row][name]["colour"] = float(np.abs(tone).mean())
        gain = found["on"][1]["psnr"][i] - found["off"][1]["psnr"][i]
        table[row]["apart"] = float(np.abs(found["on"][0][i] - found["off"][0][i]).mean())
        table[row]["better_on"] = float((gain > 0).mean())
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir")
    parser.add_argument("--path", help="images to restore; default the run's held-out ones")
    parser.add_argument("--recipe", nargs="+", default=["small"])
    parser.add_argument("--limit", type=int, default=64)
    args = parser.parse_args()
    keep_compiled_programs()
    config = own_config(args.workdir, vqgan.get_config()).unlock()
    config.eval.path = args.path
    trained = load_trained(args.workdir)
    source = open_heldout(config)
    report = {}
    for name in args.recipe:
        recipe = Recipe.from_config(config.degradation[name])
        report[name] = compare(trained, source, recipe, config.seed, args.limit)
        print(f"\nrecipe {name}, {min(len(source), args.limit)} images")
        print("row      AdaIN  PSNR (dB)   SSIM  colour error   apart  higher PSNR with AdaIN")
        for row, settings in report[name].items():
            for setting in ("off", "on"):
                s = settings[setting]
                line = f"{row:<9}{setting:<6}{s['psnr']:10.2f}{s['ssim']:7.3f}{s['colour']:14.2f}"
                apart = f"{settings['apart']:8.2f}{settings['better_on']:24.0%}"
                print(line + (apart if setting == "on" else ""))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
