"""One shard: its files examined and written as ArrayRecord, with a note on each.

A shard's bytes follow from its names and the settings, so it does not matter who builds it.
"""

import contextlib
import functools
import hashlib
import os
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow_datasets as tfds
from array_record.python import array_record_data_source, array_record_module
from tensorflow_datasets.core import example_serializer

from codeformer_jax.data.images import UnreadableImage
from codeformer_jax.prepare.build_plan import Settings
from codeformer_jax.prepare.examine import TooSmall, encode, examine
from codeformer_jax.prepare.staging import Staging, read_lines, to_line
from codeformer_jax.system import storage
from codeformer_jax.system.atomic import atomic_path


def features(size: int) -> tfds.features.FeaturesDict:
    """Returns the features of a record: 'image', encoded RGB [size, size, 3], and 'name'."""
    image = tfds.features.Image(shape=(size, size, 3), doc="square, upright, sRGB")
    name = tfds.features.Text(doc="path below its folder, with slashes")
    return tfds.features.FeaturesDict({"image": image, "name": name})


def build_shard(out: str, settings: Settings, shard: int, names: Sequence[str]) -> None:
    """Builds a shard in the staging folder of a dataset, unless it is done.

    Its notes appear last, one JSON line for each file: `{name, sha256}` of a record, with the hash
    of its pixels, or `{name, kind, reason}` of a file that is left out.

    Args:
        out: the place of the dataset.
        settings: settings of the dataset.
        shard: its index.
        names: names of its files, in order.

    Raises:
        OSError: writing failed, as on a full disk; or the sources' disk failed.
    """
    staging = Staging(out)
    if staging.notes(shard).exists():
        return
    with (  # Left in the opposite order: the notes get their name last.
        atomic_path(staging.notes(shard)) as notes_path,
        open(notes_path, "w", encoding="ascii") as notes,
        atomic_path(staging.records(shard)) as records_path,
        record_writer(records_path, settings.file_format) as writer,
    ):
        specs = features(settings.size).get_serialized_info()
        serializer = example_serializer.ExampleSerializer(specs)
        for name in names:
            note, record = _examined(name, settings, serializer)
            notes.write(to_line(note))
            if record is not None:
                writer.write(record)


def _examined(
    name: str, settings: Settings, serializer: example_serializer.ExampleSerializer
) -> tuple[dict[str, str], bytes | None]:
    """Returns the note on a file, and its record if it is not left out."""
    path = settings.path(name)
    try:
        pixels = examine(path, settings.size, settings.min_size, settings.max_megapixels)
    except TooSmall as error:
        return {"name": name, "kind": "too_small", "reason": str(error)}, None
    except UnreadableImage as error:
        return {"name": name, "kind": "unreadable", "reason": error.reason}, None
    # Bytes of a name that are not UTF-8 are written as backslash escapes.
    encoded = name.encode("utf-8", "backslashreplace")
    example = {"image": encode(pixels, settings.file_format), "name": encoded}
    # Without `deterministic` the order of the fields may differ between processes.
    record = serializer.get_tf_example(example).SerializeToString(deterministic=True)
    return {"name": name, "sha256": hashlib.sha256(pixels).hexdigest()}, record


def rewrite_shard(out: str, shard: int, target: str, file_format: str, dropped: set[str]) -> None:
    """Moves the records of a shard to another file, without some of them.

    Args:
        out: the place of the dataset.
        shard: its index.
        target: new file; the shard's own file is removed last.
        file_format: format of the pictures in the records.
        dropped: names of the records that are left out.
    """
    staging = Staging(out)
    names = (note["name"] for note in read_lines(staging.notes(shard)) if "sha256" in note)
    with (
        storage.local_copy(staging.records(shard)) as path,
        atomic_path(target) as new,
        record_writer(new, file_format) as writer,
    ):
        records = array_record_data_source.ArrayRecordDataSource([os.fspath(path)])
        for position, name in enumerate(names):
            if name not in dropped:
                writer.write(records[position])
    staging.records(shard).unlink()


@contextlib.contextmanager
def record_writer(path: str | os.PathLike, file_format: str) -> Iterator[types.SimpleNamespace]:
    """Yields an ArrayRecord writer, `write(record)`, with one record per group for random access.

    Args:
        path: local file to write.
        file_format: format of the pictures in the records; one of `examine.FORMATS`.

    Raises:
        OSError: writing failed.
    """
    # Only this png is not compressed yet.
    compression = "zstd:3" if file_format == "png" else "uncompressed"

    def call(function: Callable, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except RuntimeError as error:  # What ArrayRecord raises for everything.
            raise OSError(f"cannot write '{os.path.basename(path)}': {error}") from error

    options = f"group_size:1,{compression}"
    writer = call(array_record_module.ArrayRecordWriter, os.fspath(path), options)
    try:
        yield types.SimpleNamespace(write=functools.partial(call, writer.write))
    except BaseException:
        with contextlib.suppress(RuntimeError):  # It would hide the first error.
            writer.close()
        raise
    call(writer.close)
