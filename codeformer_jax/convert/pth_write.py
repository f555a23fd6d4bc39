"""Writer of PyTorch's zip `.pth` format, without PyTorch.

Published inference scripts read weights with `torch.load`; `weights_only=True` suffices.
"""

import collections
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from codeformer_jax.convert.errors import ConversionError
from codeformer_jax.convert.stand_ins import STORAGE_DTYPES
from codeformer_jax.system.atomic import atomic_path

_STORAGE_NAMES = {dtype: name for name, dtype in STORAGE_DTYPES.items()}
_ALIGNMENT = 64  # PyTorch aligns storages, so that they can be memory-mapped.


def write_pth(path: str | os.PathLike, tree: dict[str, Any]) -> None:
    """Writes a tree as a `.pth` file, atomically; equal trees give equal bytes.

    Args:
        path: the file; its folders are made.
        tree: nested dicts, lists and tuples of arrays, numbers, strings, booleans and None.

    Raises:
        ConversionError: a value or dtype that the format does not have; nothing is written.
    """
    path, pickled = Path(path), io.BytesIO()
    pickler = _TensorPickler(pickled, protocol=2)
    pickler.dump(tree)
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        root = path.stem or "archive"
        _add(archive, f"{root}/data.pkl", pickled.getvalue())
        _add(archive, f"{root}/byteorder", b"little")
        for key, storage in enumerate(pickler.storages):
            _add(archive, f"{root}/data/{key}", storage.tobytes())
        _add(archive, f"{root}/version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name)  # With a fixed date.
    start = archive.start_dir + 30 + len(name.encode()) + 4
    padding = -start % _ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    archive.writestr(info, content)


class _Global:
    """A name that the pickle holds and that need not be importable here."""

    def __init__(self, module: str, name: str):
        self.line = f"{module}\n{name}\n".encode("ascii")

    def __call__(self):
        raise NotImplementedError("only PyTorch calls it")


_REBUILD = _Global("torch._utils", "_rebuild_tensor_v2")
_STORAGES = {name: _Global("torch", name) for name in STORAGE_DTYPES}
_PLAIN = {type(None), bool, int, float, str, dict, list, tuple, collections.OrderedDict, _Global}


class _Stored(tuple):
    """Persistent id of a storage."""


# The pickler written in Python: the C one imports the functions that it names.
class _TensorPickler(pickle._Pickler):
    """Pickler of trees with arrays, whose values go to `storages`."""

    dispatch: ClassVar[dict[type, Callable]] = dict(pickle._Pickler.dispatch)

    def __init__(self, file: io.BytesIO, protocol: int):
        super().__init__(file, protocol)
        self.storages: list[np.ndarray] = []

    def save_named(self, named: _Global) -> None:
        self.write(pickle.GLOBAL + named.line)

    dispatch[_Global] = save_named

    def persistent_id(self, value: Any) -> tuple | None:
        return tuple(value) if type(value) is _Stored else None

    def reducer_override(self, value: Any) -> Any:
        if type(value) in _PLAIN or value is collections.OrderedDict:
            return NotImplemented
        if not isinstance(value, np.ndarray | np.generic):
            raise ConversionError(
                f"a {type(value).__name__} cannot be written to a .pth file; expected arrays, "
                "numbers, strings, and dicts, lists or tuples of them"
            )
        array = np.asarray(value)
        kind = array.dtype.newbyteorder("<")
        if kind not in _STORAGE_NAMES:
            expected = ", ".join(sorted(map(str, _STORAGE_NAMES)))
            raise ConversionError(
                f"an array of dtype {array.dtype} cannot be written to a .pth file; expected one "
                f"of {expected}"
            )
        shape = array.shape
        stride = tuple(int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape)))
        name = _STORAGES[_STORAGE_NAMES[kind]]
        stored = _Stored(("storage", name, str(len(self.storages)), "cpu", array.size))
        self.storages.append(np.asarray(array, kind, order="C"))
        # The last argument, backward hooks, is an empty OrderedDict in every file.
        return _REBUILD, (stored, 0, shape, stride, False, collections.OrderedDict())
