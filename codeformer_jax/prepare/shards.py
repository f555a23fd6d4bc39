"""One shard: its files examined and written as ArrayRecord, with notes of what became of each.

A shard's bytes follow from the plan alone, so it does not matter who builds it, or how often.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from typing import IO, Any

import tensorflow_datasets as tfds
from array_record.python import array_record_data_source, array_record_module
from etils import epath
from tensorflow_datasets.core import example_serializer

from codeformer_jax.data.images import UnreadableImage
from codeformer_jax.prepare.build_plan import Plan, files_of_shard
from codeformer_jax.prepare.examine import TooSmall, encode, examine
from codeformer_jax.prepare.staging import (
    PrepareError,
    Staging,
    local_file,
    new_file,
    read_lines,
    to_line,
)


def features(size: int) -> tfds.features.FeaturesDict:
    """What a record holds: 'image' as encoded RGB [size, size, 3] and 'name'."""
    image = tfds.features.Image(shape=(size, size, 3), doc="square, upright, sRGB")
    name = tfds.features.Text(doc="path below its folder, with slashes")
    return tfds.features.FeaturesDict({"image": image, "name": name})


def build_shard(staging_root: str, shard: int, tick: Callable[[], None] = lambda: None) -> None:
    """Builds a shard of the plan in a staging folder, unless it is done; `tick` is called per file.

    Its notes appear last, one JSON line for each file: `{name, sha256}` of a record, with the hash
    of its pixels, or `{name, kind, reason}` of a file that is left out.

    Raises:
      OSError: writing failed, as on a full disk; or the sources' disk failed.
      PrepareError: the shard's list of names is damaged.
    """
    staging = Staging(epath.Path(staging_root))
    if staging.notes(shard).exists():
        return
    plan = Plan.load(staging)
    with (  # Left in the opposite order: the notes get their name last.
        new_file(staging.notes(shard)) as notes_path,
        open(notes_path, "w", encoding="ascii") as notes,
        new_file(staging.records(shard)) as records_path,
        RecordWriter(records_path, plan.settings.file_format) as writer,
    ):
        _fill(writer, notes, staging, plan, shard, tick)


def _fill(
    writer: "RecordWriter",
    notes: IO[str],
    staging: Staging,
    plan: Plan,
    shard: int,
    tick: Callable[[], None],
) -> None:
    settings = plan.settings
    specs = features(settings.size).get_serialized_info()
    serializer = example_serializer.ExampleSerializer(specs)
    files = 0
    for name, path in files_of_shard(staging, settings, shard):
        files += 1
        try:
            pixels = examine(path, settings.size, settings.min_size, settings.max_megapixels)
        except (UnreadableImage, TooSmall) as error:
            small = isinstance(error, TooSmall)
            kind, reason = ("too_small", str(error)) if small else ("unreadable", error.reason)
            notes.write(to_line({"name": name, "kind": kind, "reason": reason}))
        else:
            example = {"image": encode(pixels, settings.file_format), "name": name_bytes(name)}
            # Without `deterministic` the order of the fields may differ between processes.
            record = serializer.get_tf_example(example).SerializeToString(deterministic=True)
            writer.write(record)
            digest = hashlib.sha256(pixels).hexdigest()
            notes.write(to_line({"name": name, "sha256": digest}))
        tick()
    if files != plan.sizes[shard]:
        raise PrepareError(
            f"'{staging.names(shard)}' is damaged: it holds {files} of {plan.sizes[shard]} names; "
            "give --restart to begin anew"
        )


def rewrite_shard(
    source: str,
    target: str,
    file_format: str,
    dropped: set[int],
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Moves the records of `source` but those at the positions `dropped` to the file `target`.

    `tick` is called for each record of `source`, which is removed last.
    """
    with (
        local_file(epath.Path(source)) as path,
        new_file(epath.Path(target)) as new,
        RecordWriter(new, file_format) as writer,
    ):
        records = array_record_data_source.ArrayRecordDataSource([path])
        for position in range(len(records)):
            if position not in dropped:
                writer.write(records[position])
            tick()
    epath.Path(source).unlink()  # Before the next one needs the place.


def read_notes(staging: Staging, shard: int) -> Iterator[dict[str, Any]]:
    """The notes of a shard that is done."""
    return read_lines(staging.notes(shard))


def name_bytes(name: str) -> bytes:
    """A file name as UTF-8; bytes of a name that are none are written as backslash escapes."""
    return name.encode("utf-8", "backslashreplace")


class RecordWriter:
    """ArrayRecord whose errors are OSErrors; one record per group, for random access.

    path: local file to write.
    file_format: of the pictures in the records; one of `examine.FORMATS`.
    """

    def __init__(self, path: str, file_format: str):
        # Other formats than png are compressed already.
        compression = "zstd:3" if file_format == "png" else "uncompressed"
        self._path = path
        self._options = f"group_size:1,{compression}"

    def __enter__(self) -> "RecordWriter":
        self._writer = self._call(array_record_module.ArrayRecordWriter, self._path, self._options)
        return self

    def write(self, record: bytes) -> None:
        self._call(self._writer.write, record)

    def __exit__(self, kind: type | None, *_: Any) -> None:
        if kind is None:
            self._call(self._writer.close)
            return
        with contextlib.suppress(RuntimeError):
            self._writer.close()

    def _call(self, function: Callable, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except RuntimeError as error:
            raise OSError(f"cannot write '{os.path.basename(self._path)}': {error}") from error
