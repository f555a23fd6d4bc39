"""Size and reading time of the formats that a prepared dataset can have, against PNG in a folder.

    python benchmarks/image_formats.py [--faces DIR] [--rounds 7]

Every format holds the same 512 px pictures, and rounds of all alternate. Formats of `prepare` are
read from ArrayRecord, record and all; the others are decoded from memory. Times are of the
processor, over all threads, since that is what a host's cores give. Prints one JSON object.
"""

import argparse
import io
import json
import os
import pathlib
import statistics
import tempfile
import time

import numpy as np
import PIL
from array_record.python.array_record_data_source import ArrayRecordDataSource
from PIL import Image, features

from codeformer_jax.data.folder import ImageFolder
from codeformer_jax.data.images import read_image, resize_image
from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.prepare.examine import FORMATS, encode
from codeformer_jax.prepare.shards import record_writer

SIZE = 512
ALTERNATIVES = {
    "png, level 1": ("PNG", {"compress_level": 1}),
    "png, level 6": ("PNG", {"compress_level": 6}),
    "png, level 1, Huffman only": ("PNG", {"compress_level": 1, "compress_type": 2}),
    "webp lossless, method 4": ("WEBP", {"lossless": True, "method": 4}),
    "jpeg, quality 95, 4:2:0": ("JPEG", {"quality": 95, "subsampling": 2}),
}


def decode(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def with_pillow(pixels, file_format, options):
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, file_format, **options)
    return encoded.getvalue()


def prepared(faces, file_format, folder):
    """(encoding seconds, bytes, reader) of records in one of the formats of `prepare`."""
    path = pathlib.Path(folder, file_format)
    start = time.process_time()
    with record_writer(str(path), file_format) as writer:
        for face in faces:
            writer.write(encode(face, file_format))
    seconds = time.process_time() - start
    source = ArrayRecordDataSource([str(path)])
    return seconds, path.stat().st_size, lambda index: decode(source[index])


def alternative(faces, file_format, options):
    start = time.process_time()
    data = [with_pillow(face, file_format, options) for face in faces]
    return time.process_time() - start, sum(map(len, data)), lambda index: decode(data[index])


def in_folder(faces, folder):
    """PNG files as `ImageFolder` reads them."""
    paths = [pathlib.Path(folder, f"{index}.png") for index in range(len(faces))]
    start = time.process_time()
    for path, face in zip(paths, faces, strict=True):
        Image.fromarray(face).save(path)
    seconds = time.process_time() - start
    size = sum(path.stat().st_size for path in paths)
    return seconds, size, lambda index: resize_image(read_image(paths[index]).pixels, SIZE)


def measure(cases, count, rounds):
    """Median CPU milliseconds of reading one picture, by case; the first round warms up."""
    times = {name: [] for name in cases}
    for _ in range(rounds + 1):
        for name, (_, _, read) in cases.items():
            start = time.process_time()
            for index in range(count):
                read(index)
            times[name].append((time.process_time() - start) / count)
    return {name: 1e3 * statistics.median(each[1:]) for name, each in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", help="folder of images; default rendered faces")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.faces:
        source = ImageFolder(arguments.faces, SIZE, "all")
    else:
        source = SyntheticFaces("train", SIZE, arguments.count)
    faces = [np.asarray(source[i]["image"]) for i in range(min(arguments.count, len(source)))]
    with tempfile.TemporaryDirectory() as folder:
        cases = {"folder of png": in_folder(faces, folder)}
        cases |= {f"prepared {name}": prepared(faces, name, folder) for name in FORMATS}
        cases |= {name: alternative(faces, *how) for name, how in ALTERNATIVES.items()}
        times = measure(cases, len(faces), arguments.rounds)
    report = {
        "cpu_count": os.cpu_count(),
        "pillow": PIL.__version__,
        "zlib_ng": features.check_feature("zlib_ng"),
        "pictures": len(faces),
        "formats": {
            name: {
                "kib": round(size / len(faces) / 1024, 1),
                "encode_cpu_ms": round(1e3 * seconds / len(faces), 2),
                "read_cpu_ms": round(times[name], 3),
                "times_folder": round(times["folder of png"] / times[name], 2),
            }
            for name, (seconds, size, _) in cases.items()
        },
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
