"""Speed and memory of finding, cutting and pasting faces, without the network in between.

    python benchmarks/photos.py [--megapixels 1 12 100] [--faces 1 5 50] [--rounds 3]
        [--reference DIR] [--limit 10] [--memory 16] [--json FILE]

Pictures hold drawn faces, tilted, on a grid over a background. `align` fits the transforms to given
landmarks and cuts crops of 512 px; `paste` makes the masks and pastes other drawn faces in their
place; `detect` runs the embedded detector. With a checkout of the published PyTorch code as
`--reference`, its helper aligns and pastes the same faces by the same landmarks (square mask,
no enlargement). Its detector is not timed, since that needs trained weights.

Each measurement runs in a process of its own. Seconds are medians of the rounds, of which there are
fewer where they take more than a minute in all. `peak_mib` is the process's peak memory less its
memory with the picture loaded (Linux only). A measurement of more than `--limit` minutes or
`--memory` GiB is given up and says so. Prints a table and one JSON object.
"""

import argparse
import functools
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from codeformer_jax.data.synthetic import render_face  # noqa: E402
from codeformer_jax.faces.align import cut  # noqa: E402
from codeformer_jax.faces.face import TEMPLATE, apply, fit_similarity, invert  # noqa: E402
from codeformer_jax.faces.masks import hull_mask  # noqa: E402
from codeformer_jax.faces.paste import Patch, paste  # noqa: E402

SIZE = 512
HELPER = "facelib/utils/face_restoration_helper.py"
IDENTITIES = 5
# Seconds of measuring after which no further round begins.
ENOUGH = 60
# Largest side of a face's square, as a share of the picture's height.
LARGEST = 1 / 3


def draw(megapixels, faces, folder):
    """Writes a picture, the landmarks of its faces and as many other faces into a folder."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(megapixels * 1e6 / height)
    rows = max(1, round((faces * height / width) ** 0.5))
    columns = -(-faces // rows)
    side = min(0.9 * min(height / rows, width / columns), LARGEST * height)
    ramp = np.linspace(60, 180, width)[:, None] + [0, 10, 25]
    picture = np.broadcast_to(ramp, (height, width, 3)).astype(np.uint8)
    drawn = [render_face(identity, SIZE) for identity in range(2 * IDENTITIES)]
    landmarks = []
    for face in range(faces):
        centre = [(face % columns + 0.5) * width / columns, (face // columns + 0.5) * height / rows]
        angle, scale = np.deg2rad(20 * np.sin(face)), side * 0.75 / SIZE
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        place = np.column_stack([turn, centre - turn @ [SIZE / 2, SIZE / 2]])
        mask = np.zeros((SIZE, SIZE), np.float32)
        mask[1:-1, 1:-1] = 1
        paste(picture, [Patch(invert(place), drawn[face % IDENTITIES], mask)], detail=False)
        landmarks.append(apply(place, TEMPLATE))
    np.save(folder / "picture.npy", picture)
    np.save(folder / "landmarks.npy", np.array(landmarks))
    np.save(folder / "restored.npy", np.stack(drawn[IDENTITIES:]))
    return {"width": width, "height": height, "square": round(side * 0.75)}


def timed(function):
    """The function's result and its seconds."""
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def ours(picture, landmarks, restored, _):
    """Aligns and pastes with this package."""
    transforms, seconds = [], {}

    def align():
        transforms[:] = [fit_similarity(points) for points in landmarks]
        return [cut(picture, transform, SIZE) for transform in transforms]

    def put():
        patches = [
            Patch(transform, face, hull_mask(SIZE, apply(transform, points)))
            for transform, face, points in zip(transforms, restored, landmarks, strict=True)
        ]
        paste(picture, patches)

    crops, seconds["align"] = timed(align)
    _, seconds["paste"] = timed(put)
    if len(crops) != len(landmarks):
        raise RuntimeError("a face was lost")
    return seconds


@functools.cache
def load_detector():
    """The embedded detector."""
    from codeformer_jax.faces.detect import DETECTORS  # noqa: PLC0415

    return DETECTORS["yunet"](None, None)


def detect(picture, landmarks, *_):
    """Finds faces with the embedded detector."""
    detector = load_detector()
    found, seconds = timed(lambda: detector(picture))
    return {"detect": seconds, "found": len(found), "faces": len(landmarks)}


def published(picture, landmarks, restored, directory):
    """Aligns and pastes with the published helper."""
    helper = load_helper(directory)
    helper.input_img, helper.is_gray = picture, False
    helper.all_landmarks_5 = list(landmarks)
    _, align = timed(helper.align_warp_face)

    def put():
        helper.get_inverse_affine()
        for face in restored:
            helper.add_restored_face(face)
        return helper.paste_faces_to_input_image()

    result, seconds = timed(put)
    if result.shape != picture.shape:
        raise RuntimeError("the helper returned a picture of another size")
    return {"align": align, "paste": seconds}


def load_helper(directory):
    """The helper of a checkout, without its networks."""
    import reference  # noqa: PLC0415

    root = reference.checkout(
        directory, (HELPER,), "--reference", "https://github.com/sczhou/CodeFormer"
    )
    nothing = {"init_detection_model": lambda *_, **__: None}
    nothing |= {"init_parsing_model": lambda *_, **__: None}
    reference.install(
        {
            "torchvision": {"__path__": []},
            "torchvision.transforms": {"__path__": []},
            "torchvision.transforms.functional": {"normalize": None},
            "basicsr": {"__path__": []},
            "basicsr.utils": {"__path__": []},
            "basicsr.utils.download_util": {"load_file_from_url": None},
            "basicsr.utils.misc": {"get_device": lambda: "cpu"},
            "facelib": {"__path__": [str(root / "facelib")]},
            "facelib.utils": {"__path__": [str(root / "facelib" / "utils")]},
            "facelib.detection": nothing,
            "facelib.parsing": nothing,
        }
    )
    module = importlib.import_module("facelib.utils.face_restoration_helper")
    return module.FaceRestoreHelper(1, face_size=SIZE)


RUNS = {"ours": ours, "detect": detect, "published": published}


def status(key):
    """A figure of this process's memory in MiB; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def work(name, folder, rounds, directory, memory):
    """Measures in this process and prints the figures."""
    resource.setrlimit(resource.RLIMIT_AS, (memory * 2**30, memory * 2**30))
    run = RUNS[name]
    arguments = [np.load(folder / f"{file}.npy") for file in ("picture", "landmarks", "restored")]
    picture, landmarks, restored = arguments
    restored = [restored[face % IDENTITIES] for face in range(len(landmarks))]
    # Threads, tables and models are there before the measurement.
    small = np.zeros((600, 600, 3), np.uint8)
    run(small, TEMPLATE[None] * 0.5 + 150, restored[:1], directory)
    Path("/proc/self/clear_refs").write_text("5")  # Forgets the peak so far.
    before = status("VmRSS")
    seconds, start = [], time.perf_counter()
    while len(seconds) < rounds and (not seconds or time.perf_counter() - start < ENOUGH):
        seconds.append(run(picture, landmarks, restored, directory))
    figures = {key: statistics.median(row[key] for row in seconds) for key in seconds[0]}
    print(json.dumps(figures | {"peak_mib": status("VmHWM") - before}))


def measure(name, folder, arguments):
    """The figures of one measurement, or why there are none."""
    command = [sys.executable, __file__, "--worker", name, "--folder", str(folder)]
    command += ["--rounds", str(arguments.rounds), "--memory", str(arguments.memory)]
    command += ["--reference", str(arguments.reference)]
    try:
        done = subprocess.run(
            command, timeout=60 * arguments.limit, capture_output=True, text=True, check=False
        )
    except subprocess.TimeoutExpired:
        return {"given_up": f"more than {arguments.limit:g} minutes"}
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        memory = any(word in reason for word in ("MemoryError", "Insufficient memory", "-9"))
        return {"given_up": f"more than {arguments.memory} GiB" if memory else reason}
    return json.loads(done.stdout.splitlines()[-1])


def row(case):
    """A line of the table."""
    cells = [f"{case['megapixels']:g}", str(case["faces"]), str(case["square"])]
    for name in ("detect", "ours", "published"):
        figures = case.get(name)
        if figures is None:
            cells += ["", ""]
        elif "given_up" in figures:
            cells += [figures["given_up"], ""]
        else:
            rate = case["megapixels"] / sum(figures.get(k, 0) for k in ("detect", "align", "paste"))
            cells += [f"{rate:.3g}", f"{figures['peak_mib']:.0f}"]
    return "| " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megapixels", nargs="+", type=float, default=[1, 12, 100])
    parser.add_argument("--faces", nargs="+", type=int, default=[1, 5, 50])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reference", metavar="DIR", help="a checkout of the published code")
    parser.add_argument("--limit", type=float, default=10, help="minutes of a measurement")
    parser.add_argument("--memory", type=int, default=16, help="GiB of address space of one")
    parser.add_argument("--json", metavar="FILE", help="also write the report there")
    parser.add_argument("--worker", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        folder, directory = arguments.folder, arguments.reference
        work(arguments.worker, folder, arguments.rounds, directory, arguments.memory)
        return
    names = ["detect", "ours", *(["published"] if arguments.reference else [])]
    report = {
        "cores": len(os.sched_getaffinity(0)),
        "opencv": cv2.__version__,
        "python": platform.python_version(),
        "rounds": arguments.rounds,
        "published_detection": "not timed: it needs trained weights",
        "cases": [],
    }
    print("| MP | faces | square px |" + "".join(f" {n} MP/s | MiB |" for n in names), flush=True)
    for megapixels in arguments.megapixels:
        for faces in arguments.faces:
            with tempfile.TemporaryDirectory() as temporary:
                case = {"megapixels": megapixels, "faces": faces}
                case |= draw(megapixels, faces, Path(temporary))
                case |= {name: measure(name, Path(temporary), arguments) for name in names}
            report["cases"].append(case)
            print(row(case), flush=True)
    print(json.dumps(report, indent=2))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
