"""Reader of PyTorch's `.pth` files, without PyTorch and without running what a pickle asks for.

Two containers exist: a zip archive with `data.pkl` and one member per storage (PyTorch 1.6 and
later), and the older stream of pickles followed by raw storages. Both hold a pickle that may name
any Python function. Those that PyTorch's own safe loader knows have a stand-in (`stand_ins.py`);
the rest is refused. What is read and made is bounded by the size of the file.
"""

import io
import os
import reprlib
import zipfile
from typing import Any

import numpy as np

from codeformer_jax.convert.errors import ConversionError, PthError, UnsafePickleError
from codeformer_jax.convert.stand_ins import Described, Storage
from codeformer_jax.convert.unpickle import ForeignName, TensorUnpickler
from codeformer_jax.system import storage

STATE_DICT_KEYS = ("params_ema", "params", "params_d", "state_dict")

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_DEPTH = 50
_STORED = zipfile.ZIP_STORED
_BIG_ENDIAN = "written on a big-endian machine, which is not supported; save it again on another"
_SCALARS = (type(None), bool, int, float, complex, str, bytes, Described)


def read_pth(path: str | os.PathLike) -> Any:
    """Reads a `.pth` file: nested dicts, lists, sets, numbers and strings with NumPy arrays.

    Nothing in the file is executed. Arrays keep shape and dtype (bfloat16 and float8 by ml_dtypes)
    and are read-only. dtypes, devices and layouts become their names; tensors that NumPy does not
    have (sparse, quantized) become a `Described` string.

    Args:
        path: the file, of either format.

    Raises:
        FileNotFoundError: no such file.
        UnsafePickleError: the pickle names something that is not part of a tensor.
        PthError: not a `.pth` file, truncated or corrupt; the message names the file.
    """
    path = storage.to_path(path)
    with storage.local_copy(path) as local, open(local, "rb") as file:
        head = file.read(64)
        file.seek(0)
        try:
            if head.startswith(b"PK\x03\x04"):
                tree = _read_zip(file)
            elif head.startswith(b"\x80"):
                tree = _read_legacy(file)
            else:
                raise PthError(_describe_foreign(head))
            return _plain(tree, {}, 0)
        except PthError as error:
            raise type(error)(f"{path}: {error}") from error.__cause__
        except Exception as error:
            # A damaged pickle or archive can raise nearly anything.
            raise PthError(
                f"{path}: truncated or corrupt PyTorch file ({type(error).__name__}: {error}); "
                "fetch it again"
            ) from error


def select_state_dict(tree: Any, key: str | None = None) -> dict[str, np.ndarray]:
    """Returns the {name: array} table of a file's contents.

    Args:
        tree: what `read_pth` returned.
        key: where the table is, or the name of one network in it: 'cond_stage_model' takes what is
            under 'cond_stage_model.'. By default the first of 'params_ema', 'params', 'params_d'
            and 'state_dict' that exists, else the whole tree.

    Raises:
        ConversionError: no such table; the message lists what the file has.
    """
    if not isinstance(tree, dict):
        raise ConversionError(f"expected a dict of tensors; the file holds a {type(tree).__name__}")
    if key is None:
        found = [k for k in STATE_DICT_KEYS if isinstance(tree.get(k), dict)]
        table = tree[found[0]] if found else tree
    elif isinstance(tree.get(key), dict):
        table = tree[key]
    elif part := _part(tree, key):
        table = part
    else:
        raise ConversionError(f"no table of tensors under {key!r}; the file has {_contents(tree)}")
    others = [str(k) for k, v in table.items() if not isinstance(v, np.ndarray)]
    if others or not table:
        raise ConversionError(
            f"no table of tensors (looked under {', '.join(STATE_DICT_KEYS)} and at the top); "
            f"the file has {_contents(table)}"
        )
    return {str(k): v for k, v in table.items()}


def _part(tree: dict, name: str) -> dict[str, np.ndarray]:
    """Returns the entries of a file's table under `name.`, without that prefix."""
    table = next((tree[k] for k in STATE_DICT_KEYS if isinstance(tree.get(k), dict)), tree)
    prefix = f"{name}."
    return {str(k)[len(prefix) :]: v for k, v in table.items() if str(k).startswith(prefix)}


def _contents(tree: dict) -> str:
    shown = [f"{k!r} ({_kind(v)})" for k, v in list(tree.items())[:20]]
    more = len(tree) - len(shown)
    return (", ".join(shown) or "nothing") + (f" and {more} more" if more else "")


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"tensor {list(value.shape)}"
    if isinstance(value, Described):
        return str(value)
    sized = f" of {len(value)}" if isinstance(value, dict | list | tuple | set | str) else ""
    return f"{type(value).__name__}{sized}"


def _describe_foreign(head: bytes) -> str:
    text = head.lstrip().lower()
    if not head:
        return "the file is empty; fetch it again"
    if text.startswith((b"<!doctype", b"<html")):
        return "this is a web page, not weights; fetch the file from its direct address"
    if text.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, not weights; run `git lfs pull`"
    return f"not a PyTorch file (it starts with {head[:8]!r}; expected a zip archive or a pickle)"


def _read_zip(file: io.BufferedIOBase) -> Any:
    total = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        roots = [n for n in members if n.endswith("data.pkl") and n.count("/") <= 1]
        if len(roots) != 1:
            raise PthError("a zip archive without 'data.pkl': not a PyTorch checkpoint")
        prefix = roots[0].removesuffix("data.pkl")
        if sum(x.file_size for x in members.values() if x.compress_type == _STORED) > total:
            raise PthError("corrupt: the members of the archive are larger than the file")
        storages: dict[str, tuple[np.dtype | None, Storage]] = {}

        def read(name: str) -> bytes:
            if members[name].compress_type != _STORED:
                raise PthError(
                    f"{name.removeprefix(prefix)!r} is compressed, which PyTorch does not write"
                )
            return archive.read(members[name])

        def load_storage(dtype: np.dtype | None, key: str, count: int) -> Storage:
            if key in storages and storages[key][0] != dtype:
                raise PthError(f"corrupt: storage {key!r} is described in two ways")
            if key not in storages:
                name, kind = f"{prefix}data/{key}", np.dtype("u1") if dtype is None else dtype
                if name not in members:
                    raise PthError(f"corrupt: storage {key!r} is not in the archive")
                raw = read(name)
                if len(raw) != count * kind.itemsize:
                    raise PthError(
                        f"corrupt: storage {key!r} has {len(raw)} bytes; expected "
                        f"{count} x {kind.itemsize}"
                    )
                storages[key] = dtype, Storage(np.frombuffer(raw, kind))
            return storages[key][1]

        if f"{prefix}byteorder" in members and read(f"{prefix}byteorder").strip() == b"big":
            raise PthError(_BIG_ENDIAN)
        return TensorUnpickler(io.BytesIO(read(roots[0])), load_storage, total).load()


class _Bounded:
    """Reads of a file; one that is longer than the file fails before its memory is taken."""

    def __init__(self, file: io.BufferedIOBase, total: int):
        self._file, self._total = file, total
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        if count > self._total:
            raise PthError(f"truncated or corrupt: {count} bytes of a file of {self._total}")
        return self._file.read(count)


def _read_legacy(file: io.BufferedIOBase) -> Any:
    total = os.fstat(file.fileno()).st_size
    storages: dict[str, np.ndarray] = {}

    def load_storage(dtype: np.dtype | None, key: str, count: int) -> Storage:
        dtype = np.dtype("u1") if dtype is None else dtype
        if key not in storages:
            used = sum(a.nbytes for a in storages.values())
            if used + count * dtype.itemsize > total:
                raise PthError(f"truncated: storage {key!r} of {count} elements is not in the file")
            storages[key] = np.zeros(count, dtype)
        if storages[key].dtype != dtype or storages[key].size != count:
            raise PthError(f"corrupt: storage {key!r} is described in two ways")
        return Storage(storages[key])

    def load() -> Any:
        return TensorUnpickler(_Bounded(file, total), load_storage, total).load()

    if load() != _LEGACY_MAGIC:
        raise PthError("a pickle, but not one that PyTorch wrote")
    if (protocol := load()) != _LEGACY_PROTOCOL:
        raise PthError(f"protocol version {reprlib.repr(protocol)}; expected {_LEGACY_PROTOCOL}")
    system = load()
    if not isinstance(system, dict) or not system.get("little_endian", True):
        raise PthError(_BIG_ENDIAN)
    tree = load()
    for key in load():
        array = storages.get(key)
        count = int.from_bytes(file.read(8), "little", signed=True)
        if array is None or count != array.size:
            raise PthError(
                f"corrupt: storage {reprlib.repr(key)} has {count} elements, not what was declared"
            )
        if file.readinto(array.view(np.uint8)) != array.nbytes:
            raise PthError(f"truncated in storage {key!r}; fetch the file again")
        storages.pop(key)
    if storages:
        raise PthError(f"truncated: no values for storages {', '.join(sorted(storages))}")
    return tree


def _plain(value: Any, done: dict[int, Any], depth: int) -> Any:
    """Returns `value` in plain containers; refuses what is neither data nor a tensor."""
    if depth > _MAX_DEPTH:
        raise PthError(f"containers nested more than {_MAX_DEPTH} deep")
    if type(value) in _SCALARS or isinstance(value, np.ndarray):
        return value
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, dict):
        plain = {_plain_key(k): _plain(v, done, depth + 1) for k, v in value.items()}
    elif type(value) is set:
        plain = {_plain_key(k) for k in value}
    elif type(value) in (list, tuple):
        plain = type(value)(_plain(v, done, depth + 1) for v in value)
    else:
        kind = value if isinstance(value, ForeignName) else type(value).__name__
        raise UnsafePickleError(f"refused: it holds a {kind}, which is not data")
    done[id(value)] = plain
    return plain


def _plain_key(key: Any) -> Any:
    if isinstance(key, ForeignName):
        return str(key)
    if type(key) is tuple:
        return tuple(map(_plain_key, key))
    if type(key) not in _SCALARS:
        raise PthError(f"a dict or set with a {type(key).__name__} for a key")
    return key
