"""Codes computed once: `codeformer-jax encode` writes them, stages II and III read them.

A folder with `codes.json` (see `Description`) and `codes.npy`: uint16 (uint32 for a codebook of
more than 65,536) [number, 2, n], for each example the codes of the picture and of the mirrored
picture. Version 1 of the format, ArrayRecord shards, can still be read.
"""

import dataclasses
import functools
import io
import json
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from jaxtyping import Int32, Integer

from codeformer_jax.data.examples import Element, Source, Wrapper, listing_digest
from codeformer_jax.system import storage
from codeformer_jax.system.hashes import file_sha256
from codeformer_jax.system.storage import Path

DESCRIPTION_FILE, ARRAY_FILE = "codes.json", "codes.npy"
_FORMAT, _VERSION = "codeformer-jax codes", 2


class CodesError(ValueError):
    """A folder of codes that is damaged, or that belongs to other images or another network."""


@dataclasses.dataclass(frozen=True)
class Description:
    """The contents of a folder of codes.

    Attributes:
        fingerprint: fingerprint of the network that encoded, see `convert.code_fingerprint`.
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
        """The dtype of `codes.npy`."""
        return np.dtype("<u2" if self.codebook_size <= 2**16 else "<u4")

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of `codes.npy`."""
        return (self.number, 2, self.grid[0] * self.grid[1])


def write_codes(
    folder: Path, description: Description, batches: Iterable[Integer[np.ndarray, "_ 2 n"]]
) -> Description:
    """Writes a folder of codes and returns its description.

    Args:
        folder: an empty folder.
        description: all of it but the hash.
        batches: codes of the examples in order; those beyond `number` are dropped.

    Raises:
        OSError: the folder cannot be written.
    """
    path, left, dtype = folder / ARRAY_FILE, description.number, description.dtype
    header = {"descr": dtype.str, "fortran_order": False, "shape": description.shape}
    with open(path, "wb") as file:  # No memory map: a full disk would kill the process by SIGBUS.
        np.lib.format.write_array_header_1_0(file, header)
        for codes in batches:
            file.write(codes[:left].astype(dtype).tobytes())
            left -= len(codes[:left])
    description = dataclasses.replace(description, sha256=file_sha256(path))
    values = {"format": _FORMAT, "version": _VERSION, **dataclasses.asdict(description)}
    (folder / DESCRIPTION_FILE).write_text(json.dumps(values, indent=2) + "\n")
    return description


def read_description(directory: str | os.PathLike) -> Description:
    """Reads `codes.json`.

    Raises:
        FileNotFoundError: there is none.
        CodesError: it is damaged or of another version.
    """
    path = storage.to_path(directory, "data.codes") / DESCRIPTION_FILE
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
        values.pop("shard_records", None)  # Of version 1.
        grid = tuple(values["grid"])
        sizes = [*grid, *(values[name] for name in ("image_size", "codebook_size", "number"))]
        if len(sizes) != 5 or any(type(size) is not int or size < 1 for size in sizes):
            raise ValueError(f"sizes must be positive integers, got {sizes}")
        return Description(**values | {"grid": grid})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CodesError(f"'{path}' cannot be used ({error!r}); {_again(directory)}") from error


class Codes:
    """The codes in a folder, memory-mapped; worker processes map them again.

    Codes in a bucket are in memory instead, in each worker.

    `codes[i]` is int32 [2, n], the codes of example i of the source, as it is and mirrored.

    Raises:
        FileNotFoundError: there are no codes.
        CodesError: files are missing, truncated or damaged.
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = storage.to_path(directory, "data.codes")
        self.description = read_description(directory)
        if known := self.description.sha256:
            path = self.directory / ARRAY_FILE
            if not path.is_file() or known != file_sha256(path):
                raise self._damaged(f"{ARRAY_FILE} is missing or not as it was written")
        if self._array.shape != self.description.shape:
            raise self._damaged(f"shape {self._array.shape}, expected {self.description.shape}")

    def __len__(self) -> int:
        return self.description.number

    def __getitem__(self, index: int) -> Int32[np.ndarray, "2 n"]:
        return self._array[index].astype(np.int32)

    def __getstate__(self) -> dict[str, Any]:
        return {"directory": self.directory, "description": self.description}

    @functools.cached_property
    def _array(self) -> np.ndarray:
        try:
            if self.description.sha256 and storage.is_remote(self.directory):
                return np.load(io.BytesIO(storage.read_bytes(self.directory / ARRAY_FILE)))
            if self.description.sha256:
                return np.load(self.directory / ARRAY_FILE, mmap_mode="r")
            return _read_shards(self.directory, self.description)
        except (RuntimeError, ValueError) as error:
            raise self._damaged(error) from error

    def _damaged(self, reason: object) -> CodesError:
        return CodesError(f"'{self.directory}' is damaged ({reason}); {_again(self.directory)}")


class WithCodes(Wrapper):
    """A source whose examples also have 'codes': int32 [2, n], as they are and mirrored.

    They follow an example's `index` where the source replaced a broken example by another.

    Raises:
        CodesError: the number of examples or their listing differ.
    """

    def __init__(self, source: Source, codes: Codes):
        super().__init__(source)
        self._codes = codes
        about = codes.description
        if len(source) != about.number:
            problem = f"the data have {len(source)} images"
        elif listing_digest(source) != about.listing:
            problem = "the data have as many, but not all with the same names and files"
        else:
            return
        raise CodesError(
            f"'{codes.directory}' has codes of {about.number} images of '{about.source}', and "
            f"{problem}; images may have been added, removed, renamed or overwritten since. Give "
            f"the data that were encoded, with the same share held out, or {_again('DIR')}"
        )

    def __getitem__(self, index: int) -> Element:
        found = self._source[index]
        return {**found, "codes": self._codes[int(found.get("index", index))]}


def _read_shards(directory: Path, description: Description) -> np.ndarray:
    """Reads codes of version 1, whose records hold codes and then a name, into memory."""
    records = ArrayRecordDataSource(sorted(map(str, directory.glob("*.array_record"))))
    array = np.empty((len(records), *description.shape[1:]), description.dtype)
    for index in range(len(records)):
        codes = np.frombuffer(records[index], description.dtype, array[0].size)
        array[index] = codes.reshape(array.shape[1:])
    if array.max() >= description.codebook_size:
        raise ValueError(f"codes outside 0..{description.codebook_size - 1}")
    return array


def _again(directory: str | os.PathLike) -> str:
    return f"encode again: codeformer-jax encode CHECKPOINT {directory} --data SOURCE --force"
