"""Priors trained on pictures that the project draws, in bits beside their baselines.

    python benchmarks/priors.py --work runs/priors [--only shapes faces faces_gpt] [--json FILE]

Two CPU cores take about an hour and a half for all of it; killed and started again it goes on.
Trains, each in `--work`/NAME:

    shapes_vqvae      VQ-VAE of shapes in ten classes, 32 px, 8x8 codes of 64
    shapes_pixelcnn   gated PixelCNN over its codes, by class
    shapes_gpt        transformer over its codes, by class
    faces_vqvae       VQ-VAE of faces, 64 px, 16x16 codes of 128
    faces_pixelcnn    gated PixelCNN over its codes
    faces_vqgan       stage I of `configs/demo.py`, 64 px, 16x16 codes of 256
    faces_gpt         `configs/gpt_faces.py:small` without noise, a transformer over its codes

Prints, of the best checkpoint of every prior, bits per code on held-out maps under the prior, under
the uniform distribution and under every site's own frequencies in training. Of the priors by class
also how many samples a small classifier recognises, that was trained on real pictures
(`benchmarks/class_samples.py`).
"""

import argparse
import json
import os
import sys
from pathlib import Path

import jax
import ml_collections
from absl import logging

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import class_samples

from codeformer_jax.checkpoints.trained import load_trained
from codeformer_jax.system import compilation_cache
from codeformer_jax.train import loop
from configs import demo, gpt_faces, pixelcnn_faces, vqvae_faces

PRIORS = ("shapes_pixelcnn", "shapes_gpt", "faces_pixelcnn", "faces_gpt")
SHAPES = {"path": "synthetic_shapes:20000", "image_size": 32, "heldout_length": 512}
FACES = {"path": "synthetic:4000", "image_size": 64, "heldout_length": 256}


def vqvae(data: dict, codes: int, steps: int) -> ml_collections.ConfigDict:
    config = vqvae_faces.get_config().unlock()
    config.data.update({**data, "batch_size": 32})
    config.model.update(
        image_size=data["image_size"], hidden=64, codebook_size=codes, emb_dim=16, ema_decay=0.95
    )
    config.optimizer.learning_rate = 1e-3
    return _runs(config, steps)


def pixelcnn(
    data: dict,
    teacher: ml_collections.ConfigDict,
    classes: int,
    steps: int,
    *,
    layers: int,
    features: int,
):
    config = pixelcnn_faces.get_config().unlock()
    config.data.update({**data, "batch_size": 32})
    config.model = teacher.model
    config.pixelcnn.update(
        embed_dim=32,
        layers=layers,
        features=features,
        first_kernel=5,
        head_features=128,
        classes=classes,
    )
    config.optimizer.update(learning_rate=1e-3, warmup_steps=50)
    config.ema_decay = 0.99
    return _runs(config, steps)


def gpt(data: dict, teacher: ml_collections.ConfigDict, prior_of: str, classes: int, steps: int):
    config = gpt_faces.get_config("small").unlock()
    config.data.update({**data, "batch_size": 16})
    config.model = teacher.model
    config.prior_of = prior_of
    config.gpt.classes = classes
    config.gpt.condition = "class" if classes else "start"
    # Runs so short do not overfit: no noise.
    config.gpt.dropout, config.loss.pkeep = 0.0, 1.0
    config.ema_decay = 0.99
    return _runs(config, steps)


def _runs(config: ml_collections.ConfigDict, steps: int) -> ml_collections.ConfigDict:
    config.steps = steps
    config.eval_every = config.checkpoint_every = max(steps // 5, 1)
    config.log_every = 50
    config.eval.update(batch_size=32, batches=8)
    return config.lock()


def jobs() -> dict[str, tuple[ml_collections.ConfigDict, str | None]]:
    """Name -> config, and the name of its autoencoder."""
    shapes = vqvae(SHAPES, 64, 1500)
    faces = vqvae(FACES, 128, 600)
    vqgan = demo.get_config("vqgan")
    return {
        "shapes_vqvae": (shapes, None),
        "shapes_pixelcnn": (
            pixelcnn(SHAPES, shapes, 10, 10_000, layers=8, features=64),
            "shapes_vqvae",
        ),
        "shapes_gpt": (gpt(SHAPES, shapes, "vqvae", 10, 10_000), "shapes_vqvae"),
        "faces_vqvae": (faces, None),
        "faces_pixelcnn": (pixelcnn(FACES, faces, 0, 600, layers=6, features=48), "faces_vqvae"),
        "faces_vqgan": (vqgan, None),
        "faces_gpt": (gpt(FACES, vqgan, "vqgan", 0, 500), "faces_vqgan"),
    }


def train(root: Path, only: list[str]) -> None:
    for name, (config, teacher) in jobs().items():
        if not any(name.startswith(chosen) for chosen in only):
            continue
        if teacher and not (root / name).exists():
            config.unlock().teacher = str(root / teacher)
        logging.info("training %s", name)
        loop.train(config, root / name)


def bits(workdir: Path) -> dict[str, float | int]:
    """Returns the scores of the best checkpoint on held-out maps."""
    trained = load_trained(workdir, "best")
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    row = [r for r in rows if r["step"] == trained.step and "eval/bits_per_dim" in r][-1]
    prior, uniform, sites = (row[f"eval/bits_per_dim{name}"] for name in ("", "_uniform", "_sites"))
    return {
        "step": trained.step,
        "parameters": sum(x.size for x in jax.tree.leaves(trained.variables)),
        "bits_per_code": round(prior, 3),
        "uniform": round(uniform, 3),
        "sites": round(sites, 3),
        "below_uniform": round(uniform - prior, 3),
        "below_sites": round(sites - prior, 3),
        "share_of_sites": round(prior / sites, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of the workdirs")
    parser.add_argument(
        "--only", nargs="+", default=["shapes", "faces"], help="names, or their start"
    )
    parser.add_argument("--json", type=Path, help="file to write the results to")
    given = parser.parse_args()
    logging.set_verbosity(logging.INFO)
    compilation_cache.keep_compiled_programs()
    train(given.work, given.only)
    report = {"cores": os.cpu_count(), "jax": jax.__version__, "priors": {}}
    for name in PRIORS:
        if (given.work / name).exists():
            report["priors"][name] = bits(given.work / name)
            if name.startswith("shapes"):
                report["priors"][name]["classes"] = class_samples.recognise(given.work / name)
    text = json.dumps(report, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
