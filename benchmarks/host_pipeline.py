"""Images per second and core of the host pipeline: folders and prepared data at 512 px.

    python benchmarks/host_pipeline.py [--images DIR] [--number 256] [--rounds 5] [--size 512]

Per core: the running stream of one process on one core (decode, crop, flip, batch) by processor
seconds, against two loops over the same pictures: "decoder" reads them, also out of ArrayRecord,
and decodes them with what the pipeline uses; "pillow" decodes the files' bytes by Pillow. Kinds and
loops take turns in every round; figures are medians over the rounds, ratios medians of the
rounds' own.
Workers: the same stream from one worker process and from two, on all cores, in turns,
by the clock on the wall: leave the machine alone. `machine` is what the machine itself gives: the
decoder in two processes that share nothing, against one. The files repeat up to the number of
FFHQ's, because grain takes longer to shuffle a few indices.

Without --images the pictures are synthetic faces with the noise of a camera. Prints one JSON
object.
"""

import argparse
import contextlib
import io
import itertools
import json
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time

import numpy as np
import PIL
from array_record.python.array_record_data_source import ArrayRecordDataSource
from ml_collections import ConfigDict
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from codeformer_jax.data.images import decode_image, read_image, resize_image, write_image
from codeformer_jax.data.pipeline import batches
from codeformer_jax.data.sources import open_source
from codeformer_jax.data.stored_png import decode_stored_png
from codeformer_jax.data.synthetic import render_face
from codeformer_jax.prepare.build import prepare

BATCH = 16
NOISE = 2.0  # Standard deviation in levels of 255, of each channel: ISO 100 or so.
PREPARED = ("png", "webp", "jpeg")
EXAMPLES = 70_000


def picture(index, images, size):
    """uint8 [size, size, 3]."""
    if images:
        return resize_image(read_image(images[index % len(images)]).pixels, size)
    rng = np.random.default_rng(index)
    noisy = render_face(index, size) + rng.normal(0, NOISE, (size, size, 3))
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


def make_data(root, images, number, size):
    """{kind: source string} of two folders and the prepared datasets of them."""
    for index in range(number):
        pixels = picture(index, images, size)
        for suffix in ("png", "jpg"):
            write_image(root / f"{suffix} folder" / f"{index:05d}.{suffix}", pixels)
    texts = {f"{suffix} folder": f"folder:{root}/{suffix} folder" for suffix in ("png", "jpg")}
    for file_format in PREPARED:
        out = root / f"prepared {file_format}"
        options = {"file_format": file_format, "max_rejected": number, "workers": 1}
        prepare([root / "png folder"], out, size=size, validation_fraction=0.0, **options)
        texts[f"prepared {file_format}"] = f"tfds:{out}"
    return texts


def open_text(text, size):
    settings = {"path": text, "image_size": size, "heldout_fraction": 0.0}
    return open_source(ConfigDict(settings), "train")


def encoded_images(text):
    """The bytes of the pictures' files, read anew: from a folder, or from ArrayRecord."""
    kind, _, path = text.partition(":")
    if kind == "folder":
        for file in sorted(pathlib.Path(path).iterdir()):
            yield file.read_bytes()
        return
    source = ArrayRecordDataSource(sorted(map(str, pathlib.Path(path).glob("*array_record*"))))
    for index in range(len(source)):
        features = tf_example_pb2.Example.FromString(source[index]).features.feature
        yield features["image"].bytes_list.value[0]


def decode_by_pillow(encoded):
    return sum(1 for data in encoded if np.asarray(Image.open(io.BytesIO(data))).ndim)


def decode_all(text):
    """Decodes as the pipeline does: records like `data.records`, files like `data.folder`."""
    kind, _, path = text.partition(":")
    if kind == "folder":
        files = sorted(pathlib.Path(path).iterdir())
        return sum(1 for file in files if read_image(file).pixels.ndim)
    number = 0
    for data in encoded_images(text):
        pixels = decode_stored_png(data)
        number += (decode_image(data, "") if pixels is None else pixels).ndim > 0
    return number


class Many:
    """A source whose examples repeat."""

    def __init__(self, source):
        self._source = source

    def __len__(self):
        return EXAMPLES

    def __getitem__(self, index):
        return self._source[index % len(self._source)]


def stream_rate(clock, source, workers, number):
    """Images per second of a stream that runs already."""
    stream = batches(Many(source), batch_size=BATCH, seed=0, workers=workers)
    with contextlib.closing(stream):
        for _ in range(8 + 4 * workers):  # What is read ahead has been waiting.
            next(stream)
        steps = itertools.islice(stream, number // BATCH)
        return rate(clock, lambda: sum(len(step["image"]) for step in steps))


def rate(clock, function, *arguments):
    start = clock()
    count = function(*arguments)
    return count / (clock() - start)


def per_core(texts, size, rounds, number, results):
    """Runs in a process of its own that has one core."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    alone = time.thread_time  # What a closed stream still reads ahead does not count.
    sources = {kind: open_text(text, size) for kind, text in texts.items()}
    rates = {kind: {"pipeline": [], "decoder": [], "pillow": []} for kind in texts}
    for turn in range(rounds + 1):
        for kind, text in texts.items():
            encoded = list(encoded_images(text))
            found = {
                "pipeline": stream_rate(time.process_time, sources[kind], 0, number),
                "decoder": rate(alone, decode_all, text),
                "pillow": rate(alone, decode_by_pillow, encoded),
            }
            if turn:  # The first round warms up.
                for name, value in found.items():
                    rates[kind][name].append(value)
    results.put(rates)


def report_cores(rates):
    def ratio(one, other):
        return round(statistics.median(a / b for a, b in zip(one, other, strict=True)), 2)

    folder = rates["png folder"]["pipeline"]
    report = {}
    for kind, found in rates.items():
        medians = {name: round(statistics.median(v), 1) for name, v in found.items()}
        ratios = {
            f"of_{name}": ratio(found["pipeline"], found[name]) for name in ("decoder", "pillow")
        }
        report[kind] = medians | ratios | {"times_png_folder": ratio(found["pipeline"], folder)}
    return report


def decode_apart(text, start, results):
    decode_all(text)
    start.wait()
    results.put(rate(time.perf_counter, decode_all, text))


def apart_rate(text, processes):
    """Images per second of the decoder in processes that share nothing."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(processes), context.Queue()
    started = [
        context.Process(target=decode_apart, args=(text, start, results)) for _ in range(processes)
    ]
    for process in started:
        process.start()
    total = sum(results.get() for _ in started)
    for process in started:
        process.join()
    return total


def scaling(texts, size, rounds, number):
    report = {}
    for kind, text in texts.items():
        source = open_text(text, size)
        found = [
            [stream_rate(time.perf_counter, source, n, number) for n in (1, 2)]
            + [apart_rate(text, n) for n in (1, 2)]
            for _ in range(rounds)
        ]
        one, two, alone, together = (np.array(column) for column in zip(*found, strict=True))
        report[kind] = {
            "1_worker": round(float(np.median(one)), 1),
            "2_workers": round(float(np.median(two)), 1),
            "ratio": round(float(np.median(two / one)), 2),
            "machine": round(float(np.median(together / alone)), 2),
            "of_machine": round(float(np.median(two / one * alone / together)), 2),
        }
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=pathlib.Path, help="folder of pictures to take instead")
    parser.add_argument("--number", type=int, default=256, help="pictures of each kind")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=512)
    arguments = parser.parse_args()
    images = (
        sorted(p for p in arguments.images.rglob("*") if p.is_file()) if arguments.images else []
    )
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        texts = make_data(root, images, arguments.number, arguments.size)
        sizes = {
            kind: sum(f.stat().st_size for f in (root / kind).rglob("*") if f.is_file())
            for kind in texts
        }
        context = multiprocessing.get_context("spawn")
        results = context.Queue()
        process = context.Process(
            target=per_core,
            args=(texts, arguments.size, arguments.rounds, arguments.number, results),
        )
        process.start()
        cores = report_cores(results.get())
        process.join()
        workers = scaling(texts, arguments.size, arguments.rounds, 2 * arguments.number)
    report = {
        "cpu_count": os.cpu_count(),
        "pillow": PIL.__version__,
        "pictures": str(arguments.images or "synthetic faces"),
        "number": arguments.number,
        "size": arguments.size,
        "bytes_per_image": {kind: size // arguments.number for kind, size in sizes.items()},
        "images_per_second_and_core": cores,
        "workers": workers,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
