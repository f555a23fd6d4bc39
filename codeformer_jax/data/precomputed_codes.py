"""Codes computed once: what `codeformer-jax encode` writes and stages II and III read.

A folder with `codes.json` (see `Description`) and ArrayRecord shards. Record i holds the codes of
example i of the source: little-endian uint16 (uint32 for a codebook of more than 65,536) [2, n], of
the picture as it is and of the mirrored picture, then the example's name in UTF-8.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Int32, Integer

from codeformer_jax.data.examples import listing_digest
from codeformer_jax.system.open_files import check_open_files

DESCRIPTION_FILE = "codes.json"
_SHARD_RECORDS = 2**14
_MAX_SHARDS = 128  # A reader keeps all of them open, beside those of the images.
_FORMAT = "codeformer-jax codes"
_VERSION = 1
_SIZES = ("image_size", "codebook_size", "number", "shard_records")
_CHECKED_AT_ONCE = 8


class CodesError(ValueError):
    """A folder of codes that is damaged, or that belongs to other images or another network."""


@dataclasses.dataclass(frozen=True)
class Description:
    """What a folder of codes holds.

    Attributes:
        fingerprint: of the network that encoded, see `convert.code_fingerprint`.
        source: the data setting that was encoded, for people to read.
        listing: `pipeline.listing_digest` of the images.
        image_size: side of the pictures in pixels.
        grid: rows and columns of codes; n is their product.
        codebook_size: K; codes are in [0, K).
        number: of examples.
        shard_records: examples in each shard but the last, see `records_per_shard`.
    """

    fingerprint: str
    source: str
    listing: str
    image_size: int
    grid: tuple[int, int]
    codebook_size: int
    number: int
    shard_records: int

    @property
    def dtype(self) -> np.dtype:
        """Of the codes in a record."""
        return np.dtype("<u2" if self.codebook_size <= 2**16 else "<u4")

    @property
    def shards(self) -> dict[str, range]:
        """{file: the examples in it}."""
        starts = range(0, self.number, self.shard_records)
        return {
            f"{shard:05d}-of-{len(starts):05d}.array_record": range(
                start, min(start + self.shard_records, self.number)
            )
            for shard, start in enumerate(starts)
        }

    def to_json(self) -> str:
        """The content of `codes.json`."""
        values = {"format": _FORMAT, "version": _VERSION, **dataclasses.asdict(self)}
        return json.dumps(values, indent=2) + "\n"

    def pack(self, codes: Integer[np.ndarray, "2 n"], name: str) -> bytes:
        """A record."""
        return codes.astype(self.dtype).tobytes() + name.encode("utf-8", "surrogateescape")

    def unpack(self, record: bytes) -> tuple[Int32[np.ndarray, "2 n"], str]:
        """Codes and name of a record.

        Raises:
            ValueError: it is too short, or holds codes outside the codebook.
        """
        count = 2 * self.grid[0] * self.grid[1]
        codes = np.frombuffer(record, self.dtype, count).astype(np.int32)
        if codes.min() < 0 or codes.max() >= self.codebook_size:
            raise ValueError(f"codes outside 0..{self.codebook_size - 1}")
        name = record[count * self.dtype.itemsize :].decode("utf-8", "surrogateescape")
        return codes.reshape(2, -1), name


def records_per_shard(number: int) -> int:
    """How many of `number` examples go into one shard, so that the shards are few."""
    return max(_SHARD_RECORDS, -(-number // _MAX_SHARDS))


def read_description(directory: str | os.PathLike) -> Description:
    """Reads `codes.json`.

    Raises:
        FileNotFoundError: there is none.
        CodesError: it is damaged or of another version.
    """
    path = Path(directory, DESCRIPTION_FILE)
    if not path.is_file():
        raise FileNotFoundError(
            f"no codes in '{directory}' (no {DESCRIPTION_FILE} in it); make them with "
            "`codeformer-jax encode CHECKPOINT DIR --data SOURCE`"
        )
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        kind = values.pop("format"), values.pop("version")
        if kind != (_FORMAT, _VERSION):
            raise ValueError(f"it is {kind}, this version reads {(_FORMAT, _VERSION)}")
        sizes = [*values["grid"], *(values[name] for name in _SIZES)]
        if len(sizes) != 6 or any(type(size) is not int or size < 1 for size in sizes):
            raise ValueError(f"these are no sizes: {sizes}")
        description = Description(**values | {"grid": tuple(values["grid"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CodesError(f"'{path}' cannot be used ({error!r}); {_again(directory)}") from error
    return description


def write_shard(path: str | os.PathLike, records: Iterable[bytes]) -> None:
    """Writes records for random access.

    Raises:
        OSError: the file cannot be written.
        Others: as `records` raises them.
    """

    def call(function: Callable, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except RuntimeError as error:  # The library has no other class.
            check_open_files(error)
            raise OSError(f"cannot write '{path}': {error}") from error

    writer = call(ArrayRecordWriter, os.fspath(path), "group_size:1")
    try:
        for record in records:
            call(writer.write, record)
    except BaseException:
        with contextlib.suppress(RuntimeError):  # The first error is the one to tell.
            writer.close()
        raise
    call(writer.close)


class Codes:
    """The codes in a folder; picklable, so that worker processes can read them.

    Raises:
        FileNotFoundError: no codes there.
        CodesError: files are missing, truncated or damaged.
        OSError: the limit of open files is reached.
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = Path(directory)
        self.description = read_description(directory)
        paths = [os.fspath(self.directory / name) for name in self.description.shards]
        try:
            self._records = ArrayRecordDataSource(paths)
        except RuntimeError as error:
            check_open_files(error)
            raise self._damaged(error) from error
        if len(self._records) != len(self):
            raise self._damaged(f"{len(self._records)} records, expected {len(self)}")

    def __len__(self) -> int:
        return self.description.number

    def read(self, index: int, name: str) -> Int32[np.ndarray, "2 n"]:
        """Codes of example `index`, as it is and mirrored.

        Raises:
            CodesError: the record is damaged, or not of an example called `name`.
            OSError: the limit of open files is reached; every shard stays open.
        """
        if not 0 <= index < len(self):
            raise CodesError(f"'{self.directory}' has {len(self)} examples, asked for {index}")
        try:
            codes, encoded = self.description.unpack(self._records[index])
        except (RuntimeError, ValueError) as error:
            check_open_files(error)
            raise self._damaged(f"record {index}: {error}") from error
        if encoded != name:
            raise CodesError(
                f"'{self.directory}' has codes of other images: example {index} is '{encoded}' "
                f"there and '{name}' in the data. {self.made_of()}; images may have been added, "
                f"removed or renamed since. Give the data that were encoded, or {_again('DIR')}"
            )
        return codes

    def made_of(self) -> str:
        """Which images were encoded, as a clause of a message."""
        about = self.description
        return f"The codes were made of {about.number} images of '{about.source}'"

    def _damaged(self, reason: object) -> CodesError:
        return CodesError(f"'{self.directory}' is damaged ({reason}); {_again(self.directory)}")


class WithCodes:
    """A source whose elements also have 'codes': int32 [2, n], as they are and mirrored.

    They follow an element's `index` where the source replaced a broken example by another.

    Raises:
        CodesError: when opened, where the numbers, the names of a few examples or what the sources
            list differ; each name is compared again when its example is read.
    """

    def __init__(self, source: Any, codes: Codes):
        self._source, self._codes = source, codes
        if len(source) != len(codes):
            raise CodesError(
                f"'{codes.directory}' has codes of {len(codes)} images, the data have "
                f"{len(source)}. {codes.made_of()}; give the same data and the same share of held-"
                f"out images, or {_again('DIR')}"
            )
        spread = np.linspace(0, len(source) - 1, _CHECKED_AT_ONCE).astype(int)
        for index in sorted(set(spread.tolist())):
            self[index]
        if listing_digest(source) != codes.description.listing:
            raise CodesError(
                f"'{codes.directory}' has codes of other images: the data have as many, but not "
                f"all with the same names and files. {codes.made_of()}; images may have been "
                f"renamed or overwritten since. Give the data that were encoded, or {_again('DIR')}"
            )

    @property
    def parts(self) -> Sequence[Any] | None:
        """Of the source, where it is a mixture: the pipeline draws from them by weight."""
        return getattr(self._source, "parts", None)

    @property
    def sources(self) -> Sequence[Any]:
        """The sources of a mixture, or the one."""
        return getattr(self._source, "sources", (self._source,))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        found = self._source[index]
        codes = self._codes.read(int(found.get("index", index)), found["name"])
        return {**found, "codes": codes}


def _again(directory: str | os.PathLike) -> str:
    return f"encode again: codeformer-jax encode CHECKPOINT {directory} --data SOURCE --force"
