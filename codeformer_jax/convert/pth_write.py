"""PyTorch's zip `.pth` format written without PyTorch.

The pickle is spelled in opcodes (protocol 2), since its globals name functions of a package that
need not be installed. `torch.load(..., weights_only=True)` reads the result.
"""

import io
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from codeformer_jax.convert.errors import ConversionError
from codeformer_jax.convert.stand_ins import STORAGE_DTYPES
from codeformer_jax.system.atomic import atomic_path

_STORAGE_NAMES = {dtype: name for name, dtype in STORAGE_DTYPES.items()}
_ALIGNMENT = 64  # as PyTorch aligns storages, so that they can be memory-mapped


def write_pth(path: str | os.PathLike, tree: dict[str, Any]) -> None:
    """Writes nested dicts and lists of arrays, numbers and strings as a `.pth` file, atomically.

    Raises:
        ConversionError: a value or dtype that the format does not have; nothing is written.
    """
    path, pickler = Path(path), _TensorPickler()
    pickler.dump(tree)
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        root = path.stem or "archive"
        _add(archive, f"{root}/data.pkl", pickler.output.getvalue())
        _add(archive, f"{root}/byteorder", b"little")
        for key, array in enumerate(pickler.storages):
            _add(archive, f"{root}/data/{key}", array.tobytes())
        _add(archive, f"{root}/version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    # The default date is fixed, so the same tensors give the same bytes.
    info = zipfile.ZipInfo(name)
    start = archive.start_dir + 30 + len(name.encode()) + 4
    padding = -start % _ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    archive.writestr(info, content)


class _TensorPickler:
    """Pickle opcodes of a tree; arrays go to `storages`, one each."""

    def __init__(self):
        self.output = io.BytesIO()
        self.storages: list[np.ndarray] = []

    def dump(self, tree: Any) -> None:
        self.output.write(b"\x80\x02")
        self._save(tree, "the tree")
        self.output.write(b".")

    def _save(self, value: Any, where: str) -> None:
        write = self.output.write
        if value is None or isinstance(value, bool):
            write({None: b"N", True: b"\x88", False: b"\x89"}[value])
        elif isinstance(value, int):
            size = (value.bit_length() + 8) // 8
            write(b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True))
        elif isinstance(value, float):
            write(b"G" + struct.pack(">d", value))
        elif isinstance(value, str):
            encoded = value.encode()
            write(b"X" + struct.pack("<I", len(encoded)) + encoded)
        elif isinstance(value, dict):
            write(b"}(")
            for key, entry in value.items():
                self._save(key, where)
                self._save(entry, f"{where}[{key!r}]")
            write(b"u")
        elif isinstance(value, list | tuple):
            write(b"](" if isinstance(value, list) else b"(")
            for i, entry in enumerate(value):
                self._save(entry, f"{where}[{i}]")
            write(b"e" if isinstance(value, list) else b"t")
        elif isinstance(value, np.ndarray | np.generic):
            self._save_tensor(np.asarray(value), where)
        else:
            raise ConversionError(
                f"{where} is a {type(value).__name__}; a .pth file takes arrays, numbers, strings "
                "and dicts or lists of them"
            )

    def _save_tensor(self, array: np.ndarray, where: str) -> None:
        name = _STORAGE_NAMES.get(array.dtype.newbyteorder("<"))
        if name is None:
            expected = ", ".join(sorted(str(d) for d in _STORAGE_NAMES))
            raise ConversionError(f"{where} has dtype {array.dtype}; expected one of {expected}")
        shape = array.shape
        stride = [int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape))]
        write, save = self.output.write, self._save
        write(b"ctorch._utils\n_rebuild_tensor_v2\n((")
        save("storage", where)
        write(f"ctorch\n{name}\n".encode())
        for value in (str(len(self.storages)), "cpu", array.size):
            save(value, where)
        write(b"tQ")
        for value in (0, tuple(shape), tuple(stride), False):
            save(value, where)
        # The last argument, backward hooks, is an empty OrderedDict in every file.
        write(b"ccollections\nOrderedDict\n)RtR")
        self.storages.append(np.asarray(array, array.dtype.newbyteorder("<"), order="C"))
