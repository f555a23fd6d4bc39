"""Safe equivalents of the functions and classes that PyTorch's own safe loader knows.

They make NumPy arrays, plain Python values, or a description of what has neither. What they make is
bounded by the file's size: tensors that overlap or repeat a value, and containers that are copied
again and again, could otherwise take any amount of memory.
"""

import collections
import math
import re
import reprlib
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from codeformer_jax.convert.errors import PthError

STORAGE_DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
    "ComplexFloatStorage": np.dtype("<c8"),
    "ComplexDoubleStorage": np.dtype("<c16"),
}
# Storages whose tensors are described only; their bytes are read past.
QUANTIZED_DTYPES = {
    "QInt8Storage": np.dtype("i1"),
    "QUInt8Storage": np.dtype("u1"),
    "QInt32Storage": np.dtype("<i4"),
    "QUInt4x2Storage": np.dtype("u1"),
    "QUInt2x4Storage": np.dtype("u1"),
}
# dtypes without a storage type of their own: their tensors lie in untyped storages.
_UNTYPED_DTYPES = {
    "torch.uint16": np.dtype("<u2"),
    "torch.uint32": np.dtype("<u4"),
    "torch.uint64": np.dtype("<u8"),
    "torch.float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "torch.float8_e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "torch.float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "torch.float8_e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "torch.float8_e8m0fnu": np.dtype(ml_dtypes.float8_e8m0fnu),
}
# Constants and types that stay their own names, as strings.
_NAMES = re.compile(
    r"torch\.(Tensor|nn\.parameter\.Parameter|bool|per_(tensor|channel)_\w+"
    r"|(b?float|q?u?int|complex|bits)\d+\w*)"
)
# Kinds of tensors without a NumPy counterpart.
_DESCRIBED = {
    "torch._utils._rebuild_sparse_tensor": "sparse tensor",
    "torch._utils._rebuild_qtensor": "quantized tensor",
    "torch._utils._rebuild_nested_tensor": "nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "meta tensor",
    "torch._utils._rebuild_wrapper_subclass": "wrapped tensor",
}
# All tensors together take at most so many times the file's bytes, and copied containers one entry
# per byte; the additional constants let small files hold an expanded buffer.
_TENSOR_FACTOR, _TENSOR_BYTES = 4, 2**24
_ENTRIES = 10_000


class Storage:
    """Flat array of one storage; in the older format its values arrive after the tensors."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray):
        self.array = array


class Described(str):
    """Description of a value that has no NumPy counterpart, such as a sparse tensor."""

    __slots__ = ()


class StandIns:
    """Looks up what a pickle names; `size` is that of its file in bytes."""

    def __init__(self, size: int):
        self._size = size
        self._bytes_left = _TENSOR_FACTOR * size + _TENSOR_BYTES
        self._entries_left = size + _ENTRIES
        self._calls = {
            "collections.OrderedDict": self._ordered_dict,
            "collections.Counter": self._counter,
            "builtins.set": self._set,
            "builtins.complex": _complex,
            "builtins.bytearray": self._bytes,
            "_codecs.encode": self._encode,
            "torch.Size": self._torch_size,
            "torch.device": _device,
            "torch.serialization._get_layout": _layout,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._untyped_tensor,
            "torch._utils._rebuild_parameter": _wrapped,
            "torch._utils._rebuild_parameter_with_state": _wrapped,
            "torch._utils._rebuild_device_tensor_from_cpu_tensor": _wrapped,
            "torch._tensor._rebuild_from_type_v2": _tensor_subclass,
            **{name: _describer(kind) for name, kind in _DESCRIBED.items()},
        }

    def find(self, module: str, name: str) -> Any:
        """Returns the stand-in of `module.name`; None where the safe loader would refuse it."""
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        return full if _NAMES.fullmatch(full) else self._calls.get(full)

    def check_key(self, key: Any) -> None:
        """Counts the entries of a key, so that hashing nested tuples stays affordable."""
        if isinstance(key, tuple):
            self._spend(len(key))
            for part in key:
                self.check_key(part)

    def _spend(self, entries: int) -> None:
        self._entries_left -= entries
        if self._entries_left < 0:
            raise PthError(
                f"its containers expand to more entries than a file of {self._size} bytes can "
                "hold; it is corrupt or made to exhaust memory"
            )

    def _ordered_dict(self, pairs=()) -> collections.OrderedDict:
        self._spend(len(pairs))
        keys = pairs if isinstance(pairs, dict) else [pair[0] for pair in pairs]
        for key in keys:
            self.check_key(key)
        return collections.OrderedDict(pairs)

    def _counter(self, counts=()) -> collections.Counter:
        return collections.Counter(self._ordered_dict(counts))

    def _set(self, items=()) -> set:
        self._spend(len(items))
        for item in items:
            self.check_key(item)
        return set(items)

    def _bytes(self, content=b"", encoding="latin-1") -> bytes:
        if isinstance(content, str):
            return self._encode(content, encoding)
        if not isinstance(content, bytes):
            raise PthError("corrupt: bytes without content")
        return content

    def _encode(self, text, encoding="latin1") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise PthError("corrupt: bytes that are not written as latin1 text")
        self._spend(len(text))
        return text.encode("latin1")

    def _torch_size(self, sizes=()) -> tuple:
        self._spend(len(sizes))
        return tuple(sizes)

    def _tensor(self, storage, offset, size, stride, *_) -> np.ndarray:
        if not isinstance(storage, Storage):
            raise PthError("corrupt: a tensor without a storage")
        return self._view(storage.array, offset, size, stride)

    def _untyped_tensor(self, storage, offset, size, stride, _grad, _hooks, dtype, *_) -> Any:
        if not isinstance(storage, Storage) or not isinstance(dtype, str):
            raise PthError("corrupt: a tensor without a storage or dtype")
        if dtype not in _UNTYPED_DTYPES:
            return Described(f"tensor of {reprlib.repr(dtype)}")
        kind, raw = _UNTYPED_DTYPES[dtype], storage.array
        if raw.dtype != np.uint8 or raw.size % kind.itemsize:
            raise PthError(f"corrupt: a storage of {raw.nbytes} bytes for a tensor of {dtype}")
        return self._view(raw.view(kind), offset, size, stride)

    def _view(self, flat: np.ndarray, offset, size, stride) -> np.ndarray:
        """Returns a strided view of a storage; the file's size bounds all of them together."""
        numbers = (offset, *size, *stride)
        if len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in numbers):
            size, stride, offset = map(reprlib.repr, (size, stride, offset))
            raise PthError(f"corrupt: a tensor of size {size}, stride {stride}, offset {offset}")
        if 0 in size:
            return np.zeros(size, flat.dtype)
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if last >= flat.size:
            raise PthError(
                f"corrupt: a tensor of size {tuple(size)}, stride {tuple(stride)} and offset "
                f"{offset} reaches outside its storage of {flat.size} elements"
            )
        self._bytes_left -= math.prod(size) * flat.itemsize
        if self._bytes_left < 0:
            raise PthError(
                f"its tensors repeat stored values (the last one has size {tuple(size)} and stride "
                f"{tuple(stride)}) and take more than {_TENSOR_FACTOR} times the file's "
                f"{self._size} bytes; save contiguous copies of them (`tensor.clone()`)"
            )
        strides = tuple(s * flat.itemsize for s in stride)
        # Bytes, because float8 and its kin are no buffers; legacy files fill them in later.
        raw = flat.view(np.uint8)
        view = np.ndarray(size, flat.dtype, raw, offset * flat.itemsize, strides)
        view.flags.writeable = False
        return view


def _complex(real=0.0, imaginary=0.0) -> complex:
    if not all(type(part) in (int, float) for part in (real, imaginary)):
        raise PthError("corrupt: a complex number that is not made of two numbers")
    return complex(real, imaginary)


def _device(kind, index=None) -> str:
    if type(kind) is not str or type(index) not in (int, type(None)):
        raise PthError("corrupt: a device that is not a name and a number")
    return kind if index is None else f"{kind}:{index}"


def _layout(name) -> str:
    if type(name) is not str:
        raise PthError("corrupt: a layout without a name")
    return name


def _wrapped(tensor, *_) -> Any:
    """Returns the tensor of a parameter, or from a copy of it on another device."""
    if not isinstance(tensor, np.ndarray | Described):
        raise PthError("corrupt: a parameter that holds no tensor")
    return tensor


def _tensor_subclass(function, _kind, arguments, _state) -> Any:
    """Returns a tensor without its Python attributes, rebuilt by another stand-in."""
    if not callable(function):
        raise PthError("corrupt: a tensor that is not rebuilt by a function")
    return function(*arguments)


def _describer(kind: str) -> Callable[..., Described]:
    return lambda *_: Described(kind)
