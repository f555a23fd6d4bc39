"""Small ArrayRecord datasets, written with TFDS and array_record themselves."""

import contextlib
import io
import os
import resource

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

# Without a look at the bucket where TFDS keeps datasets of its own.
OFFLINE = tfds.download.DownloadConfig(try_download_gcs=False)


def noise(seed, size=8):
    """uint8 [size, size, 3] that belongs to the seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3))
    return pixels.astype(np.uint8)


def encoded(pixels, file_format="PNG", **options):
    """The picture as bytes of a file."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, file_format, **options)
    return data.getvalue()


def example(image, name=None):
    """A serialized tf.train.Example."""
    message = tf_example_pb2.Example()
    message.features.feature["image"].bytes_list.value.append(image)
    if name is not None:
        message.features.feature["name"].bytes_list.value.append(name.encode())
    return message.SerializeToString()


@contextlib.contextmanager
def file_limit(more):
    """This process may open so many more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    taken = []  # The limit is on the number of a file, and gaps are filled first.
    while not taken or taken[-1] < highest:
        taken.append(os.open(os.devnull, os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 1 + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for file in taken:
            os.close(file)


def write_records(path, records):
    """One ArrayRecord file."""
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def write_tfds(folder, splits, size=8):
    """A dataset of numbered noise; `splits` is {split: number of examples}. Returns its folder."""

    class Faces(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(size, size, 3)),
                "name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            starts = np.cumsum([0, *splits.values()])
            return {
                split: self._examples(int(start), number)
                for (split, number), start in zip(splits.items(), starts, strict=False)
            }

        def _generate_examples(self):
            raise NotImplementedError

        def _examples(self, start, number):
            for seed in range(start, start + number):
                picture = io.BytesIO(encoded(noise(seed, size)))
                yield f"{seed:03d}", {"image": picture, "name": f"{seed:03d}.png"}

    builder = Faces(data_dir=str(folder), file_format="array_record")
    builder.download_and_prepare(download_config=OFFLINE)
    return builder.data_dir
