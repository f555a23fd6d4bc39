"""Demo: trains the three stages by a user's commands, evaluates and restores pictures."""

import contextlib
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

import jax
import numpy as np

from codeformer_jax.system import storage
from codeformer_jax.system.keys import make_key
from codeformer_jax.system.storage import Path

ROOT = pathlib.Path(__file__).resolve().parents[1]
STAGES = ("vqgan", "code_prediction", "restoration")
PICTURES = 16
# Floor of the teacher in dB for a user's images; that of the config is for synthetic faces.
LEAST_PSNR = 5.0
# The photograph: a drawn group whose faces are about as large as the network's images.
GROUP, GROUP_SIZE = 4, (240, 400)
BLUR, DOWNSAMPLE, NOISE, JPEG = 2.0, 3.5, 12.0, 50.0


def run(
    directory: str | os.PathLike, *, short: bool = False, data: str | os.PathLike | None = None
) -> int:
    """Trains, evaluates and restores under `directory`, and prints the scores.

    A second run resumes where the first one stopped.

    Args:
        directory: folder of runs and report.
        short: take a few steps only, to show that everything runs; no scores are required.
        data: folder of images to train on instead of the synthetic faces, a tenth of them held
            out. Their scores are reported, but not judged.

    Returns:
        0, or 1 if a command failed or the scores of the synthetic faces miss the promised ones.

    Raises:
        ValueError: outside a clone of the repository, or if `directory` holds another demo.
    """
    if not (ROOT / "train.py").exists():
        raise ValueError("the demo runs from a clone of the repository")
    start, directory = time.perf_counter(), storage.absolute(directory)
    size = "short" if short else "full"
    images, floor = [], []
    if data:
        images = [f"--config.data.path={storage.absolute(data)}"]
        floor = [f"--config.teacher_min_psnr={LEAST_PSNR}"]
    _claim(directory, {"size": size, "images": images})
    commands, previous = [], None
    for number, stage in enumerate(STAGES, 1):
        workdir = directory / f"{number}_{stage}"
        command = ["train.py", f"--config=configs/demo.py:{stage},{size}", f"--workdir={workdir}"]
        origin = [f"--config.init_from={previous}", *floor] if previous else []
        commands.append([*command, *origin, *images])
        previous = workdir
    commands.append(["eval.py", f"--workdir={previous}", f"--output={directory}", "--force"])
    pictures, restored = directory / "degraded", directory / "restored"
    options = ["-w", "1", "--aligned", "--force", "--checkpoint", str(previous)]
    restore = ["-m", "codeformer_jax.cli", "restore", str(pictures), "-o", str(restored)]
    faces = [*restore, *options]
    commands.append(faces)
    photograph = directory / "photograph"
    whole = [*restore[:3], str(photograph / "degraded.png"), "-o", str(photograph), "--force"]
    commands.append([*whole, "--suffix", "_restored", "-w", "1", "--checkpoint", str(previous)])
    commands.append([*whole, "--dry-run"])
    for command in commands:
        if command is faces:
            write_degraded(pictures, previous)
            write_photograph(photograph)
        code = _run(command)
        if code:
            return 1
    report_photograph(directory)
    print(f"\nThe demo took {(time.perf_counter() - start) / 60:.1f} minutes.")
    print(f"Open {directory / 'report.html'} for pictures. `codeformer-jax restore` made the faces")
    print(f"of {restored} and the group picture of {photograph}.\n")
    held = check(json.loads((directory / "metrics.json").read_text()), own_data=bool(data))
    if short:
        print("This was a short run, which promises no scores.")
    return 0 if held or short else 1


def check(metrics: dict, *, own_data: bool = False) -> bool:
    """Prints the scores beside those that the demo promises for its synthetic faces.

    Args:
        metrics: content of the metrics.json that eval.py wrote.
        own_data: whether the images are a user's, for which nothing is promised.

    Returns:
        Whether all promises hold; always true for a user's images.
    """
    means, codes = metrics["means"], metrics["codes"]
    restored, degraded = means["w=1"], means["input"]
    size = len(codes["counts"]["teacher"])
    accuracy = codes["accuracy"] / codes["commonest_accuracy"]
    perplexity = codes["usage"]["teacher"]["perplexity"]
    promises = [
        ("PSNR over the input at w = 1, dB", restored["psnr"] - degraded["psnr"], 1.0),
        ("SSIM over the input at w = 1", restored["ssim"] - degraded["ssim"], 0.05),
        ("PSNR at w = 1 over w = 0, dB", restored["psnr"] - means["w=0"]["psnr"], 0.0),
        ("code accuracy, times the commonest code's", accuracy, 2.0),
        (f"perplexity of the teacher's {size} codes", perplexity, size / 4),
    ]
    number, kind = metrics["settings"]["images"], "images" if own_data else "faces"
    print(f"{number} held-out {kind}, input at {degraded['psnr']:.2f} dB:")
    for name, reached, least in promises:
        verdict = f"   at least {least:g}: {'holds' if reached >= least else 'MISSED'}"
        print(f"  {name:<45}{reached:9.3f}{'' if own_data else verdict}")
    return own_data or all(reached >= least for _, reached, least in promises)


def write_degraded(folder: Path, workdir: Path) -> None:
    """Writes degraded held-out faces as PNG files, which the restore command takes.

    Args:
        folder: folder of the files.
        workdir: run whose held-out data and degradation are used.
    """
    # Imported late, so that `codeformer-jax --help` does not wait.
    from codeformer_jax.checkpoints.workdir import read_config  # noqa: PLC0415
    from codeformer_jax.data.images import write_image  # noqa: PLC0415
    from codeformer_jax.data.pipeline import evaluation_batches  # noqa: PLC0415
    from codeformer_jax.data.sources import open_heldout  # noqa: PLC0415
    from codeformer_jax.degrade import Recipe, degrade  # noqa: PLC0415

    config = read_config(workdir)
    source = open_heldout(config)
    with contextlib.closing(evaluation_batches(source, batch_size=PICTURES)) as loader:
        batch = next(loader)
    keys = jax.random.split(make_key(config.seed), PICTURES)
    recipe = Recipe.from_config(config.degradation[config.eval.recipe])
    degraded = jax.jit(degrade)(batch["image"].astype(np.float32) / 255, keys, recipe)
    for index, pixels in enumerate(np.asarray(degraded)[batch["valid"]]):
        write_image(folder / f"{index:03d}.png", (pixels * 255).round().astype(np.uint8))


def write_photograph(folder: Path) -> None:
    """Writes a drawn group picture, clean and degraded, as PNG files.

    Args:
        folder: folder of `clean.png` and `degraded.png`.
    """
    from codeformer_jax.data.images import write_image  # noqa: PLC0415
    from codeformer_jax.data.synthetic import draw_group  # noqa: PLC0415
    from codeformer_jax.degrade import Recipe, degrade  # noqa: PLC0415

    height, width = GROUP_SIZE
    clean = draw_group(GROUP, height, width).image
    # Degradations take squares.
    square = np.pad(clean, ((0, width - height), (0, 0), (0, 0)), mode="edge")
    recipe = Recipe.create(
        blur_sigma=(BLUR, BLUR),
        downsample=(DOWNSAMPLE, DOWNSAMPLE),
        noise=(NOISE, NOISE),
        jpeg_quality=(JPEG, JPEG),
    )
    keys = jax.random.split(make_key(GROUP), 1)
    degraded = jax.jit(degrade)(square[None].astype(np.float32) / 255, keys, recipe)
    degraded = (np.asarray(degraded)[0, :height] * 255).round().astype(np.uint8)
    for name, pixels in (("clean", clean), ("degraded", degraded)):
        write_image(folder / f"{name}.png", pixels)


def report_photograph(directory: Path) -> None:
    """Adds the photograph to the demo's report, and writes `photograph.jpg` beside it.

    Args:
        directory: folder of the demo.
    """
    from codeformer_jax.data.images import read_image, resize_image, write_image  # noqa: PLC0415
    from codeformer_jax.evaluate.report import add_photographs  # noqa: PLC0415

    captions = {
        "degraded": "Degraded",
        "degraded_faces": "Faces that the embedded detector found",
        "degraded_restored": "Restored at w = 1 by codeformer-jax restore",
        "clean": "Ground truth",
    }
    pictures = {
        caption: read_image(directory / "photograph" / f"{name}.png").pixels
        for name, caption in captions.items()
    }
    add_photographs(directory, pictures)
    # The dry run enlarges small pictures.
    shape = max(pixels.shape[:2] for pixels in pictures.values())
    degraded, faces, restored, clean = (resize_image(x, shape) for x in pictures.values())
    rows = [np.concatenate(row, axis=1) for row in ((degraded, faces), (restored, clean))]
    write_image(directory / "photograph.jpg", np.concatenate(rows))


def _claim(directory: Path, settings: dict) -> None:
    """Records the settings of the demo in this folder; raises ValueError if they differ."""
    note = directory / "demo.json"
    if not note.exists():
        directory.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(settings) + "\n")
    elif json.loads(note.read_text()) != settings:
        raise ValueError(
            f"{directory} holds a demo with another size or other images "
            f"({note.read_text().strip()}); remove it, or use another folder: make demo "
            "DEMO_DIR=..."
        )


def _run(arguments: list[str]) -> int:
    shown = shlex.join(["python", *arguments]).replace(
        "python -m codeformer_jax.cli", "codeformer-jax"
    )
    print(f"\n$ {shown}", flush=True)
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()  # Ctrl-C reached it as well; it saves before it ends.
        raise
    if code:
        print(f"error: this command ended with exit code {code}", file=sys.stderr)
    print(f"({time.perf_counter() - began:.0f} s)", flush=True)
    return code
