"""Codes computed once: what `codeformer-jax encode` writes and stages II and III read.

A folder with `codes.json` (see `Description`) and `codes.npy`. Row i of the array belongs to
example i of the source: `codes`, uint16 (uint32 for a codebook of more than 65,536) [2, n], of the
picture and of the mirrored picture, and `name`, a 64-bit hash of the example's name.

Version 1 of the format, ArrayRecord shards of codes and names, can still be read.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from jaxtyping import Int32, Integer

from codeformer_jax.data.examples import Element, Source, Wrapper, listing_digest
from codeformer_jax.data.folder import name_hash

DESCRIPTION_FILE = "codes.json"
_ARRAY_FILE = "codes.npy"
_FORMAT, _VERSION = "codeformer-jax codes", 2
_CHECKED_AT_START = 8


class CodesError(ValueError):
    """A folder of codes that is damaged, or that belongs to other images or another network."""


@dataclasses.dataclass(frozen=True)
class Description:
    """The contents of a folder of codes.

    Attributes:
        fingerprint: of the network that encoded, see `convert.code_fingerprint`.
        source: the data setting that was encoded, for people to read.
        listing: `examples.listing_digest` of the images.
        image_size: side of the pictures in pixels.
        grid: rows and columns of codes; n is their product.
        codebook_size: K; codes are in [0, K).
        number: number of examples.
        sha256: hash of `codes.npy`; empty for codes of version 1.
    """

    fingerprint: str
    source: str
    listing: str
    image_size: int
    grid: tuple[int, int]
    codebook_size: int
    number: int
    sha256: str = ""

    @property
    def dtype(self) -> np.dtype:
        """The dtype of a row of `codes.npy`."""
        code = "<u2" if self.codebook_size <= 2**16 else "<u4"
        return np.dtype([("name", "<u8"), ("codes", code, (2, self.grid[0] * self.grid[1]))])


def write_codes(
    folder: Path,
    description: Description,
    batches: Iterable[tuple[Iterable[str], Integer[np.ndarray, "b 2 n"]]],
) -> Description:
    """Writes a folder of codes and returns its description.

    Args:
        folder: an empty folder.
        description: all of it but the hash.
        batches: names and codes of the examples in order; those beyond `number` are dropped.

    Raises:
        OSError: the folder cannot be written.
    """
    path, left = folder / _ARRAY_FILE, description.number
    header = np.lib.format.dtype_to_descr(description.dtype)
    with open(path, "wb") as file:  # Not a memory map, which a full disk kills by SIGBUS.
        np.lib.format.write_array_header_1_0(
            file, {"descr": header, "fortran_order": False, "shape": (left,)}
        )
        for names, codes in batches:
            rows = np.empty(min(left, len(codes)), description.dtype)
            rows["name"] = [name_hash(str(name)) for name in names][: len(rows)]
            rows["codes"] = codes[: len(rows)]
            file.write(rows.tobytes())
            left -= len(rows)
    description = dataclasses.replace(description, sha256=_sha256(path))
    values = {"format": _FORMAT, "version": _VERSION, **dataclasses.asdict(description)}
    (folder / DESCRIPTION_FILE).write_text(json.dumps(values, indent=2) + "\n")
    return description


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
        kind, version = values.pop("format"), values.pop("version")
        if kind != _FORMAT or version not in (1, _VERSION):
            raise ValueError(f"it is {kind!r} {version}, expected {_FORMAT!r} 1 or {_VERSION}")
        values.pop("shard_records", None)  # Version 1.
        grid = tuple(values["grid"])
        sizes = [*grid, *(values[name] for name in ("image_size", "codebook_size", "number"))]
        if len(sizes) != 5 or any(type(size) is not int or size < 1 for size in sizes):
            raise ValueError(f"sizes must be positive integers, got {sizes}")
        return Description(**values | {"grid": grid})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CodesError(f"'{path}' cannot be used ({error!r}); {_again(directory)}") from error


class Codes:
    """The codes in a folder, memory-mapped; worker processes map them again.

    Raises:
        FileNotFoundError: there are no codes.
        CodesError: files are missing, truncated or damaged.
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = Path(directory)
        self.description = read_description(directory)
        if (known := self.description.sha256) and known != _sha256(self.directory / _ARRAY_FILE):
            raise self._damaged(f"{_ARRAY_FILE} is missing or is not the file that was written")
        if len(self._rows) != len(self):
            raise self._damaged(f"{len(self._rows)} records, expected {len(self)}")

    def __len__(self) -> int:
        return self.description.number

    def __getstate__(self) -> dict[str, Any]:
        return {"directory": self.directory, "description": self.description}

    @functools.cached_property
    def _rows(self) -> np.ndarray:
        if self.description.sha256:
            return np.load(self.directory / _ARRAY_FILE, mmap_mode="r")
        try:
            return _read_shards(self.directory, self.description)
        except (RuntimeError, ValueError) as error:
            raise self._damaged(error) from error

    def read(self, index: int, name: str) -> Int32[np.ndarray, "2 n"]:
        """Returns the codes of an example, as it is and mirrored.

        Args:
            index: 0..number-1, its place in the source.
            name: its name.

        Raises:
            CodesError: the codes at `index` are of an example with another name.
        """
        if not 0 <= index < len(self):
            raise CodesError(f"'{self.directory}' has {len(self)} examples, asked for {index}")
        row = self._rows[index]
        if row["name"] != name_hash(name):
            raise CodesError(
                f"'{self.directory}' has codes of other images: example {index}, '{name}', had "
                f"another name there. {self.made_of()}; images may have been added, removed or "
                f"renamed since. Give the data that were encoded, or {_again('DIR')}"
            )
        return row["codes"].astype(np.int32)

    def made_of(self) -> str:
        """Returns a sentence on which images were encoded, for messages."""
        about = self.description
        return f"The codes were made of {about.number} images of '{about.source}'"

    def _damaged(self, reason: object) -> CodesError:
        return CodesError(f"'{self.directory}' is damaged ({reason}); {_again(self.directory)}")


class WithCodes(Wrapper):
    """A source whose examples also have 'codes': int32 [2, n], as they are and mirrored.

    They follow an example's `index` where the source replaced a broken example by another.

    Raises:
        CodesError: the number of examples, a few names or the listing differ. Each name is compared
            again when its example is read.
    """

    def __init__(self, source: Source, codes: Codes):
        super().__init__(source)
        self._codes = codes
        if len(source) != len(codes):
            raise CodesError(
                f"'{codes.directory}' has codes of {len(codes)} images, the data have "
                f"{len(source)}. {codes.made_of()}; give the same data and the same share of held-"
                f"out images, or {_again('DIR')}"
            )
        spread = np.linspace(0, len(source) - 1, _CHECKED_AT_START).astype(int)
        for index in sorted(set(spread.tolist())):
            self[index]
        if listing_digest(source) != codes.description.listing:
            raise CodesError(
                f"'{codes.directory}' has codes of other images: the data have as many, but not "
                f"all with the same names and files. {codes.made_of()}; images may have been "
                f"renamed or overwritten since. Give the data that were encoded, or {_again('DIR')}"
            )

    def __getitem__(self, index: int) -> Element:
        found = self._source[index]
        codes = self._codes.read(int(found.get("index", index)), found["name"])
        return {**found, "codes": codes}


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def _read_shards(directory: Path, description: Description) -> np.ndarray:
    """Reads codes of version 1: in each record the codes, then the name in UTF-8."""
    paths = sorted(map(str, directory.glob("*.array_record")))
    records = ArrayRecordDataSource(paths)
    code, shape = description.dtype["codes"].subdtype
    rows, count = np.empty(len(records), description.dtype), int(np.prod(shape))
    for index in range(len(records)):
        record = records[index]
        rows["codes"][index] = np.frombuffer(record, code, count).reshape(shape)
        name = record[count * code.itemsize :].decode("utf-8", "surrogateescape")
        rows["name"][index] = name_hash(name)
    if rows["codes"].max() >= description.codebook_size:
        raise ValueError(f"codes outside 0..{description.codebook_size - 1}")
    return rows


def _again(directory: str | os.PathLike) -> str:
    return f"encode again: codeformer-jax encode CHECKPOINT {directory} --data SOURCE --force"
