"""Writer of PyTorch's zip `.pth` format, without PyTorch.

Published inference scripts read weights with `torch.load`; `weights_only=True` suffices.
"""

import io
import os
import pickle
import struct
import zipfile
from typing import Any

import numpy as np

from codeformer_jax.convert.errors import ConversionError
from codeformer_jax.convert.stand_ins import STORAGE_DTYPES
from codeformer_jax.system.atomic import atomic_path
from codeformer_jax.system.storage import to_path

_STORAGE_NAMES = {dtype: name for name, dtype in STORAGE_DTYPES.items()}
_PLAIN = (type(None), bool, int, float, str, list, tuple)
_ALIGNMENT = 64  # PyTorch aligns storages, so that they can be memory-mapped.


def write_pth(path: str | os.PathLike, tree: dict[str, Any]) -> None:
    """Writes a tree as a `.pth` file, atomically; equal trees give equal bytes.

    Args:
        path: the file; its folders are made.
        tree: nested dicts of arrays, numbers, strings, booleans, None, and lists or tuples of such
            values without arrays.

    Raises:
        ConversionError: a value or dtype that the format does not have; nothing is written.
    """
    path, storages = to_path(path), []
    pickled = b"\x80\x02" + _pickle(tree, storages) + b"."
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        root = path.stem or "archive"
        _add(archive, f"{root}/data.pkl", pickled)
        _add(archive, f"{root}/byteorder", b"little")
        for key, storage in enumerate(storages):
            _add(archive, f"{root}/data/{key}", storage.tobytes())
        _add(archive, f"{root}/version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name)  # With a fixed date.
    start = archive.start_dir + 30 + len(name.encode()) + 4
    padding = -start % _ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    archive.writestr(info, content)


def _pickle(value: Any, storages: list[np.ndarray]) -> bytes:
    """Returns opcodes that push a value; appends the arrays in it to `storages`."""
    if isinstance(value, dict):
        pairs = (_pickle(part, storages) for pair in value.items() for part in pair)
        return b"}(" + b"".join(pairs) + b"u"
    if isinstance(value, np.ndarray | np.generic):
        return _pickle_tensor(np.asarray(value), storages)
    if type(value) not in _PLAIN:
        raise ConversionError(
            f"a {type(value).__name__} cannot be written to a .pth file; expected arrays, numbers, "
            "strings, and dicts of them"
        )
    return _plain(value)


def _pickle_tensor(array: np.ndarray, storages: list[np.ndarray]) -> bytes:
    # The names of PyTorch's functions are spelled out: pickle would have to import them.
    kind = array.dtype.newbyteorder("<")
    if kind not in _STORAGE_NAMES:
        expected = ", ".join(sorted(map(str, _STORAGE_NAMES)))
        raise ConversionError(
            f"an array of dtype {array.dtype} cannot be written to a .pth file; expected one of "
            f"{expected}"
        )
    key, shape = str(len(storages)), array.shape
    stride = tuple(int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape)))
    storages.append(np.asarray(array, kind, order="C"))
    storage = _plain("storage") + f"ctorch\n{_STORAGE_NAMES[kind]}\n".encode()
    storage = b"(" + storage + b"".join(map(_plain, (key, "cpu", array.size))) + b"tQ"
    view = b"".join(map(_plain, (0, shape, stride, False)))
    # The last argument, backward hooks, is an empty OrderedDict in every file.
    hooks = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + view + hooks + b"tR"


def _plain(value: Any) -> bytes:
    """Returns the opcodes of a plain value, without references to earlier ones."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=2)
    pickler.fast = True
    pickler.dump(value)
    return buffer.getvalue()[2:-1]
