"""Encoded images in ArrayRecord files as a random-access source, read without TensorFlow.

A record is an image file, or a serialized `tf.train.Example` whose feature `image` holds one. Its
features `name` and `label` (an integer), if present, are the example's name and class. Records of
the right size in upright 8-bit RGB, as `codeformer-jax prepare` writes them, are only decoded.
"""

import bisect
import dataclasses
import glob
import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from google.protobuf.message import DecodeError
from jaxtyping import Integer
from tensorflow_datasets.proto import tf_example_pb2

from codeformer_jax.data.folder import in_split
from codeformer_jax.data.images import UnreadableImage, decode_image, resize_image
from codeformer_jax.data.stored_png import decode_stored_png

# The split of a TFDS dataset for training, and those that are held out.
TRAIN_SPLIT = "train"
HELDOUT_SPLITS = ("validation", "test")

_EXAMPLE = b"\n"  # The first byte of every Example with features, and of no image file.
_BLOCK = 2**16


class UnreadableRecord(ValueError):
    """A record or a file of records without a usable image; the message names it."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """A range of records of a file, with the attributes that ArrayRecord expects.

    Attributes:
        filename: the file.
        skip: the first record.
        take: number of records.
        examples_in_shard: number of records in the file.
    """

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class Records:
    """Images in ArrayRecord files as `{'image': uint8 [size, size, 3], 'name', 'index'}`.

    Pictures of another size are cropped to their centred square and resized. `name` is the
    feature of that name, or else the file and the number of the record in it. An integer feature
    `label` is passed on. Copies for worker processes open readers of their own.

    Args:
        label: the source in words, for messages.
        shards: the files, in order.
        size: side of the pictures in pixels.
        picked: indices of the records that are the examples; None is all of them.
        min_size: smallest accepted shorter side in pixels; None is half of `size`.

    Raises:
        FileNotFoundError, PermissionError: a file is missing or may not be read.
        ValueError: no records.
        UnreadableRecord: on reading an example that is damaged, no image or too small.
        OSError: on reading at the limit of open files; every file stays open.
    """

    def __init__(
        self,
        label: str,
        shards: Sequence[Shard],
        size: int,
        *,
        picked: Integer[np.ndarray, " n"] | None = None,
        min_size: int | None = None,
    ):
        _check_files(label, [shard.filename for shard in shards])
        self.label, self.size = label, size
        self.min_size = size // 2 if min_size is None else min_size
        self._shards = tuple(shard for shard in shards if shard.take)
        self._ends = tuple(itertools.accumulate(shard.take for shard in self._shards))
        self._picked = picked
        if not len(self):
            raise ValueError(f"'{label}' is empty: it has no records; give one that has images")
        self._root = os.path.commonpath([os.path.dirname(s.filename) for s in self._shards])
        self._records = ArrayRecordDataSource(self._shards)

    def __len__(self) -> int:
        return (self._ends[-1] if self._ends else 0) if self._picked is None else len(self._picked)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0..{len(self) - 1}")
        record = int(index if self._picked is None else self._picked[index])
        try:
            encoded, name, label = _content(self._records[record])
            pixels = decode_stored_png(encoded)
            if pixels is None:
                pixels = decode_image(encoded, "")
        except UnreadableImage as error:
            raise self._unreadable(record, error.reason) from error
        except (RuntimeError, ValueError) as error:  # ArrayRecord raises RuntimeErrors.
            _check_open_files(error)
            raise self._unreadable(record, str(error)) from error
        height, width = pixels.shape[:2]
        if (height, width) != (self.size, self.size):
            if min(height, width) < self.min_size:
                reason = f"too small: {width}x{height} pixels (w x h)"
                raise self._unreadable(record, f"{reason}, min_size={self.min_size}")
            pixels = resize_image(pixels, self.size)
        found = {"image": pixels, "name": name or self._place(record), "index": index}
        return found if label is None else {**found, "label": label}

    def __repr__(self) -> str:
        return f"Records('{self.label}', size={self.size})"

    def listing(self) -> Iterator[str]:
        """Yields a line for each file: its name, its ends and its used records.

        The ends hold checksums and the places of records; nothing else is read.
        """
        for shard in self._shards:
            name = os.path.relpath(shard.filename, self._root)
            yield f"{name} {_ends(shard.filename)} {shard.skip} {shard.take}"

    def _place(self, record: int) -> str:
        number = bisect.bisect_right(self._ends, record)
        shard = self._shards[number]
        position = record - self._ends[number] + shard.take + shard.skip
        return record_name(os.path.relpath(shard.filename, self._root), position)

    def _unreadable(self, record: int, reason: str) -> UnreadableRecord:
        return UnreadableRecord(
            f"cannot read '{self._place(record)}' in '{self._root}': {reason}. Copy that file "
            "again, or rebuild the dataset with 'codeformer-jax prepare', which leaves out what "
            "cannot be used"
        )


def record_name(filename: str, position: int) -> str:
    """Returns the name of a record that has none: its file and its position in it."""
    return f"{filename.replace(os.sep, '/')}:{position}"


def open_array_record(
    pattern: str, size: int, split: str, *, heldout_fraction: float = 0.1, **options: Any
) -> Records:
    """Opens one split of the records of the files that match a pattern.

    A record's split follows from a hash of its file's name and its number in that file, so other
    files never move it.

    Args:
        pattern: as in `glob.glob`, `**` for any depth.
        size: side of the pictures in pixels.
        split: 'train', 'heldout' or 'all'.
        heldout_fraction: share of records in 'heldout', 0..1.
        options: keyword arguments of `Records`.

    Raises:
        FileNotFoundError: no file matches.
        ValueError: a split without records.
        Others: as `Records`.
    """
    label = f"array_record:{pattern}"
    _check_local(label)
    folder, name = os.path.split(pattern)
    if os.path.isdir(folder):  # Its name may have brackets.
        pattern = os.path.join(glob.escape(folder), name)
    files = sorted(name for name in glob.glob(pattern, recursive=True) if os.path.isfile(name))
    if not files:
        raise FileNotFoundError(
            f"'{label}': no file matches; give the files of records, such as "
            "array_record:/data/faces/*.array_record*"
        )
    _check_files(label, files)
    shards = [Shard(name, 0, count, count) for name, count in _counted(files)]
    if split == "all":
        return Records(label, shards, size, **options)
    root = os.path.commonpath([os.path.dirname(name) for name in files])
    names = (
        record_name(os.path.relpath(shard.filename, root), position)
        for shard in shards
        for position in range(shard.take)
    )
    hits = (at for at, name in enumerate(names) if in_split(name, split, heldout_fraction))
    picked = np.fromiter(hits, np.int64)
    if not len(picked):
        total = sum(shard.take for shard in shards)
        raise ValueError(
            f"split '{split}' of '{label}' is empty: none of its {total} records falls into it "
            f"with heldout_fraction={heldout_fraction}; change that, or set eval.path"
        )
    return Records(label, shards, size, picked=picked, **options)


def open_tfds(
    where: str, size: int, split: str, chosen: str | None = None, **options: Any
) -> Records:
    """Opens a TFDS dataset that has been prepared as ArrayRecord.

    Args:
        where: a folder with `dataset_info.json`, or a name that TFDS knows.
        size: side of the pictures in pixels.
        split: 'train', or 'heldout' or 'eval': TFDS's 'validation', or else 'test'.
        chosen: a split for 'train' or 'eval' instead, in TFDS's syntax: 'train[:90%]'. 'heldout' is
            then a split that it does not use.
        options: keyword arguments of `Records`.

    Raises:
        FileNotFoundError: no such dataset, or it has not been prepared.
        ValueError: no such split, no images in it, nothing held out, or another file format.
        Others: as `Records`.
    """
    _check_local(f"tfds:{where}")
    info = _tfds_info(where)
    if "image" not in (info.features or ()):
        raise ValueError(
            f"'tfds:{where}' has no feature 'image', only {', '.join(info.features or ())}; "
            "write its pictures to a folder and use 'codeformer-jax prepare'"
        )
    if chosen and split != "heldout":
        name = chosen
    else:
        name = _tfds_split(where, split, list(info.splits), used=chosen or "")
    label = f"tfds:{where}[{name}]"
    try:
        instructions = info.splits[name].file_instructions
    except Exception as error:  # TFDS raises several classes for a bad split.
        raise ValueError(
            f"'{label}': cannot take split '{name}' ({_first_line(error)}); the dataset has "
            f"{', '.join(info.splits) or 'none'}, parts are written as train[:90%]"
        ) from error
    shards = [
        Shard(os.fspath(each.filename), each.skip, each.take, each.examples_in_shard)
        for each in instructions
    ]
    return Records(label, shards, size, **options)


def _tfds_info(where: str) -> Any:
    # Imported here, so that worker processes do not load it.
    import tensorflow_datasets as tfds  # noqa: PLC0415

    try:
        if os.path.isdir(where):
            info = tfds.builder_from_directory(where).info
        else:
            info = tfds.builder(where).info
    except Exception as error:  # TFDS raises many classes.
        raise FileNotFoundError(
            f"'tfds:{where}': no such dataset. Give the folder that 'codeformer-jax prepare' wrote "
            "(it holds dataset_info.json), or the name of a dataset that TFDS has prepared here; "
            f"TFDS says: {_first_line(error)}"
        ) from error
    if not info.splits:
        raise FileNotFoundError(
            f"'tfds:{where}' is known to TFDS but has not been prepared in {info.data_dir}; do so "
            "with file_format='array_record', or give the folder of a prepared dataset"
        )
    if info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise ValueError(
            f"'tfds:{where}' is stored as {info.file_format.value}, which has no random "
            "access; prepare it with file_format='array_record'"
        )
    return info


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or repr(error)


def _tfds_split(where: str, split: str, splits: Sequence[str], used: str) -> str:
    wanted = (TRAIN_SPLIT,) if split == "train" else HELDOUT_SPLITS
    free = [name for name in splits if name not in used and not used.startswith("all")]
    found = [name for name in wanted if name in free]
    if not found:
        raise ValueError(
            f"'tfds:{where}' has no split {' or '.join(map(repr, wanted))} for '{split}' "
            f"(unused splits: {', '.join(free) or 'none'}); name one, such as "
            f"tfds:{where}[train[90%:]], in data.path or eval.path"
        )
    return found[0]


def _check_local(where: str) -> None:
    if "://" in where:
        raise ValueError(
            f"'{where}': records are read from a local disk; copy them there (gcloud storage cp "
            "-r, aws s3 cp --recursive), or train on the pictures themselves: folder:gs://..."
        )


def _check_files(label: str, names: Sequence[str]) -> None:
    for name in names:
        _check_local(name)
        if not os.path.exists(name):
            raise FileNotFoundError(
                f"'{label}': its file '{name}' is missing; copy the dataset again, all of it"
            )
        if not os.access(name, os.R_OK):
            raise PermissionError(
                f"'{label}': permission denied for '{name}'; make it readable for this user"
            )


def _ends(filename: str) -> str:
    """Returns length and hash of the first and last blocks of a file."""
    digest, length = hashlib.blake2b(digest_size=16), os.path.getsize(filename)
    with open(filename, "rb") as file:
        digest.update(file.read(_BLOCK))
        file.seek(max(0, length - _BLOCK))
        digest.update(file.read(_BLOCK))
    return f"{length} {digest.hexdigest()}"


def _counted(files: Sequence[str]) -> Iterator[tuple[str, int]]:
    for name in files:
        try:
            yield name, len(ArrayRecordDataSource([name]))
        except RuntimeError as error:
            _check_open_files(error)
            raise UnreadableRecord(
                f"'{name}' is not a complete ArrayRecord file ({error}); copy it again, or let the "
                "pattern leave it out"
            ) from error


def _content(record: bytes) -> tuple[bytes, str, int | None]:
    """Returns the encoded image in a record, its name or '', and its label or None."""
    if not record.startswith(_EXAMPLE):
        return record, "", None
    try:
        features = tf_example_pb2.Example.FromString(record).features.feature
    except DecodeError as error:
        raise ValueError("neither an image file nor a tf.train.Example") from error
    if "image" not in features or not features["image"].bytes_list.value:
        raise ValueError(f"no bytes in feature 'image'; it has {', '.join(sorted(features))}")
    name = features["name"].bytes_list.value if "name" in features else ()
    label = features["label"].int64_list.value if "label" in features else ()
    return (
        features["image"].bytes_list.value[0],
        name[0].decode("utf-8", "replace") if name else "",
        int(label[0]) if label else None,
    )


def _check_open_files(error: Exception) -> None:
    """Raises OSError if an error of ArrayRecord is the limit of open files.

    ArrayRecord raises RuntimeErrors for everything; only their text tells them apart.
    """
    if "Too many open files" in str(error):  # Of one process, or "in system".
        raise OSError(
            f"{error}: the limit of open files is reached, the files are not damaged. Every file "
            "of records stays open: raise the limit (show it with `ulimit -n`, set it with, for "
            "example, `ulimit -n 65536` before this command), or use fewer workers"
        ) from error
