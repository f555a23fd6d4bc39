"""Safe stand-ins for the functions and classes that PyTorch's own safe loader knows.

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
# Storages of tensors that are only described; their bytes are skipped.
QUANTIZED_DTYPES = {
    "QInt8Storage": np.dtype("i1"),
    "QUInt8Storage": np.dtype("u1"),
    "QInt32Storage": np.dtype("<i4"),
    "QUInt4x2Storage": np.dtype("u1"),
    "QUInt2x4Storage": np.dtype("u1"),
}
# dtypes without a storage type: their tensors lie in untyped storages.
_UNTYPED_DTYPES = {
    f"torch.{name}": np.dtype(getattr(ml_dtypes, name, name))
    for name in (
        "uint16",
        "uint32",
        "uint64",
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
    )
}
# Constants and types that become strings with their own names.
_NAMES = re.compile(
    r"torch\.(Tensor|nn\.parameter\.Parameter|bool|per_(tensor|channel)_\w+"
    r"|(b?float|q?u?int|complex|bits)\d+\w*)"
)
# Kinds of tensors that NumPy does not have.
_DESCRIBED = {
    "torch._utils._rebuild_sparse_tensor": "sparse tensor",
    "torch._utils._rebuild_qtensor": "quantized tensor",
    "torch._utils._rebuild_nested_tensor": "nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "meta tensor",
    "torch._utils._rebuild_wrapper_subclass": "wrapped tensor",
}
# All tensors together take at most this many times the file's bytes, and the arguments of all calls
# have at most one entry per byte; the constants let small files hold an expanded buffer.
_TENSOR_FACTOR, _TENSOR_BYTES = 4, 2**24
_ENTRIES = 10_000


class Storage:
    """Flat array of one storage; in the older format its values arrive after the tensors."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray):
        self.array = array


class Described(str):
    """Description of a value that NumPy does not have, such as a sparse tensor."""

    __slots__ = ()


class StandIns:
    """Stand-ins by name, with one budget for everything that a file makes.

    Args:
        size: bytes of the file.
    """

    def __init__(self, size: int):
        self._size = size
        self._bytes_left = _TENSOR_FACTOR * size + _TENSOR_BYTES
        self._entries_left = size + _ENTRIES
        self._calls = {
            **_CALLS,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._untyped_tensor,
        }

    def find(self, module: str, name: str) -> Any:
        """Returns the stand-in for `module.name`; None if PyTorch's safe loader refuses it."""
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        return full if _NAMES.fullmatch(full) else self._calls.get(full)

    def charge(self, value: Any) -> None:
        """Charges a value that is about to be copied or hashed, shared parts each time.

        Raises:
            PthError: the file's budget is exhausted.
        """
        self._entries_left -= len(value) if isinstance(value, str | bytes) else 1
        if self._entries_left < 0:
            raise PthError(
                f"its containers expand to more entries than a file of {self._size} bytes can "
                "hold; it is corrupt or made to exhaust memory"
            )
        if isinstance(value, dict):
            self.charge(tuple(value.values()))
        if isinstance(value, tuple | list | set | dict):
            for part in value:
                self.charge(part)

    def _tensor(self, storage, offset, size, stride, *_) -> np.ndarray:
        return self._view(storage.array, offset, size, stride)

    def _untyped_tensor(self, storage, offset, size, stride, _grad, _hooks, dtype, *_) -> Any:
        if dtype not in _UNTYPED_DTYPES:
            return Described(f"tensor of {reprlib.repr(dtype)}")
        return self._view(storage.array.view(_UNTYPED_DTYPES[dtype]), offset, size, stride)

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
        # Bytes, because float8 has no buffer protocol; legacy files fill them in later.
        raw = flat.view(np.uint8)
        view = np.ndarray(size, flat.dtype, raw, offset * flat.itemsize, strides)
        view.flags.writeable = False
        return view


def _bytes(content=b"", encoding="latin-1") -> bytes:
    """Returns bytes, which older protocols write as text; a number would reserve memory."""
    if isinstance(content, str) and encoding in ("latin1", "latin-1"):
        return content.encode("latin1")
    if not isinstance(content, bytes):
        raise PthError("corrupt: bytes that are not written as latin1 text")
    return content


def _describer(kind: str) -> Callable[..., Described]:
    return lambda *_: Described(kind)


_CALLS: dict[str, Callable] = {
    "collections.OrderedDict": collections.OrderedDict,
    "collections.Counter": collections.Counter,
    "builtins.set": set,
    "builtins.complex": complex,
    "builtins.bytearray": _bytes,
    "_codecs.encode": _bytes,
    "torch.Size": tuple,
    "torch.device": lambda *parts: ":".join(str(part) for part in parts if part is not None),
    "torch.serialization._get_layout": str,
    # Parameters, copies from other devices, and tensors with Python attributes.
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": lambda tensor, *_: tensor,
    "torch._tensor._rebuild_from_type_v2": lambda rebuild, _kind, arguments, *_: rebuild(
        *arguments
    ),
    **{name: _describer(kind) for name, kind in _DESCRIBED.items()},
}
