"""Time per image and memory of `codeformer-jax prepare`, at two sizes of folder in one run.

    python benchmarks/prepare.py [--counts 1000 10000] [--workers 2] [--format png]

Makes folders of distinct pictures, prepares each in a process of its own and samples the resident
memory of that process with all its workers. The time of starting them, measured with a few
pictures, is taken off before the time per image. What the parent alone does for every file
(listing, planning, finding duplicates) is measured by itself with a million names. Both extrapolate
to sets that nobody keeps for a benchmark. Prints one JSON object.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from unittest import mock

import numpy as np
import psutil
from PIL import Image

from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.prepare import build_plan, publish
from codeformer_jax.prepare.staging import Staging, to_line

TARGETS = (70_000, 10_000_000)
FACES = 32
FEW = 16
PER_FOLDER = 1000


def make_folder(root, count, side):
    """`count` JPEG files: a few rendered faces, each moved to another place for every file."""
    faces = [np.asarray(face["image"]) for face in SyntheticFaces("train", side, FACES)]
    for index in range(count):
        folder = root / f"{index // PER_FOLDER:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        shift = index // FACES
        pixels = np.roll(faces[index % FACES], (shift // side, shift % side), axis=(0, 1))
        Image.fromarray(pixels).save(folder / f"{index:07d}.jpg", quality=95, subsampling=0)


def resident(process):
    """Bytes of a process and its descendants; pages that they share count for each."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def run(faces, out, arguments):
    """(seconds, peak bytes) of one `codeformer-jax prepare`."""
    command = [sys.executable, "-m", "codeformer_jax.cli", "prepare", faces, out]
    command += ["--size", arguments.size, "--workers", arguments.workers]
    command += ["--format", arguments.format]
    start = time.perf_counter()
    child = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    process, peak = psutil.Process(child.pid), 0
    while child.poll() is None:
        try:
            peak = max(peak, resident(process))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.02)
    if child.wait():
        sys.exit(f"prepare failed with exit code {child.returncode}")
    return time.perf_counter() - start, peak


def measure(count, arguments, folder, startup=0.0):
    faces, times, peaks = pathlib.Path(folder, f"faces{count}"), [], []
    make_folder(faces, count, arguments.side)
    for index in range(arguments.rounds):
        out = pathlib.Path(folder, f"out{count}-{index}")
        seconds, peak = run(faces, out, arguments)
        times.append(seconds)
        peaks.append(peak)
    stored = sum(path.stat().st_size for path in out.glob("*.array_record-*"))
    return {
        "images": count,
        "seconds": round(statistics.median(times), 2),
        "ms_per_image": round(1e3 * (statistics.median(times) - startup) / count, 3),
        "peak_mib": round(statistics.median(peaks) / 2**20, 1),
        "stored_kib_per_image": round(stored / count / 1024, 1),
    }


def high_water():
    """Peak resident bytes of this process."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def plan_names(count, folder, connection):
    """Sends what the parent's part costs for `count` files, without their pictures."""
    names = ((f"{index // PER_FOLDER:05d}/{index:08d}.jpg", "123456 789") for index in range(count))
    staging = Staging(pathlib.Path(folder, "planned"))
    settings = build_plan.Settings(("/faces",), 512, "png", 256, 0.1)
    start, before = time.perf_counter(), high_water()
    with mock.patch.object(build_plan, "_versions", return_value=names):
        made = build_plan.make_plan(settings)
    build_plan.resume_or_start(staging, made, restart=False)
    planned = time.perf_counter() - start
    for shard, shard_names in enumerate(made.shards):
        with open(staging.notes(shard), "w") as file:
            for name in shard_names:
                digest = hashlib.sha256(name.encode()).hexdigest()
                file.write(to_line({"name": name, "sha256": digest}))
    start = time.perf_counter()
    if publish.find_duplicates(staging, made):
        sys.exit("names that differ were taken for duplicates")
    compared = time.perf_counter() - start
    connection.send((planned, compared, high_water() - before))


def measure_planning(count, folder):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=plan_names, args=(count, folder, theirs))
    process.start()
    planned, compared, memory = ours.recv()
    process.join()
    return {
        "files": count,
        "planning_us_per_file": round(1e6 * planned / count, 2),
        "duplicates_us_per_file": round(1e6 * compared / count, 2),
        "memory_bytes_per_file": round(memory / count, 1),
    }


def extrapolate(many, planning):
    """Time by that of an image, memory by what planning needs for a file, from the larger count."""

    def hours(images):
        further = images - many["images"]
        return (many["seconds"] + many["ms_per_image"] / 1e3 * further) / 3600

    memory = planning["memory_bytes_per_file"] / 2**20
    return [
        {
            "images": target,
            "hours": round(hours(target), 2),
            "peak_mib": round(many["peak_mib"] + memory * target),
            "stored_gib": round(many["stored_kib_per_image"] * target / 2**20, 1),
        }
        for target in TARGETS
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs=2, default=[1000, 10_000])
    parser.add_argument("--planned", type=int, default=1_000_000, help="names to plan")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--side", type=int, default=512, help="of the files, in pixels")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--format", default="png")
    parser.add_argument("--folder", help="where to work; default a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        startup = measure(FEW, arguments, folder)["seconds"]
        few, many = (measure(count, arguments, folder, startup) for count in arguments.counts)
        planning = measure_planning(arguments.planned, folder)
    report = {
        "cpu_count": os.cpu_count(),
        "workers": arguments.workers,
        "format": arguments.format,
        "size": arguments.size,
        "files": f"JPEG of {arguments.side} px",
        "startup_seconds": startup,
        "runs": [few, many],
        "time_per_image_ratio": round(many["ms_per_image"] / few["ms_per_image"], 3),
        "peak_memory_ratio": round(many["peak_mib"] / few["peak_mib"], 3),
        "planning": planning,
        "extrapolated": extrapolate(many, planning),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
