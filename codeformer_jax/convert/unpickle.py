"""An unpickler that knows tensors and nothing else: a `.pth` file cannot run code through it."""

import collections
import io
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from codeformer_jax.convert.errors import PthError, UnsafePickleError

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
}


class Storage:
    """Flat array of one storage; in the older format its values arrive after the tensors."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray):
        self.array = array


class _StorageType:
    """Stand-in for `torch.FloatStorage` and its kin: carries the dtype, cannot be called."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype


class _RebuildTensor:
    """Stand-in for `torch._utils._rebuild_tensor_v2`: a strided view of a storage."""

    __slots__ = ()

    def __call__(self, storage, offset, size, stride, *_) -> np.ndarray:
        if not isinstance(storage, Storage):
            raise PthError("corrupt: a tensor without a storage")
        numbers = (offset, *size, *stride)
        if len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in numbers):
            raise PthError(f"corrupt: a tensor of size {size}, stride {stride}, offset {offset}")
        flat = storage.array
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if 0 in size:
            return np.zeros(size, flat.dtype)
        if last >= flat.size:
            raise PthError(
                f"corrupt: a tensor of size {tuple(size)}, stride {tuple(stride)} and offset "
                f"{offset} reaches outside its storage of {flat.size} elements"
            )
        strides = tuple(s * flat.itemsize for s in stride)
        return np.lib.stride_tricks.as_strided(flat[offset:], size, strides, writeable=False)


class _RebuildParameter:
    """Stand-in for `torch._utils._rebuild_parameter`: the tensor itself."""

    __slots__ = ()

    def __call__(self, data, *_) -> np.ndarray:
        if not isinstance(data, np.ndarray):
            raise PthError("corrupt: a parameter that holds no tensor")
        return data


class ForeignName:
    """Stand-in for a class that a checkpoint names and does not need: it only has a name.

    PyTorch Lightning keys the states of its callbacks by their classes.
    """

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def __call__(self, *_) -> Any:
        raise UnsafePickleError(
            f"refused: the pickle makes a '{self.name}', which is not part of a tensor. If you "
            "trust the file, load it with PyTorch and save its state dict alone"
        )

    def __str__(self) -> str:
        return self.name


# Opcodes that data and tensors take; missing are old-style instances, extension codes, buffers.
_OPCODES = (
    "PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG "
    "LONG1 LONG4 FLOAT BINFLOAT UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINSTRING "
    "SHORT_BINSTRING EMPTY_LIST APPEND APPENDS LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_DICT DICT SETITEM SETITEMS PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET "
    "GLOBAL STACK_GLOBAL REDUCE BINPERSID "
)
_DISPATCH = {
    code: pickle._Unpickler.dispatch[code]
    for code in (getattr(pickle, n)[0] for n in _OPCODES.split())
}


# The unpickler written in Python: its memo is a dict, while that of the C one is an array that a
# damaged index makes grow to the machine's memory. It also lets opcodes be left out.
class TensorUnpickler(pickle._Unpickler):
    """Knows tensors, storages and OrderedDict; refuses to make anything else."""

    dispatch: ClassVar[dict] = dict(_DISPATCH)

    def __init__(self, file: io.BufferedIOBase, load_storage: Callable[..., Storage]):
        super().__init__(file, encoding="utf-8")
        self._load_storage = load_storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _RebuildTensor()
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _RebuildParameter()
        if module == "torch" and name in STORAGE_DTYPES:
            return _StorageType(STORAGE_DTYPES[name])
        if module.partition(".")[0] in ("pytorch_lightning", "lightning"):
            return ForeignName(f"{module}.{name}")
        raise UnsafePickleError(
            f"refused: the pickle names '{module}.{name}', which is not part of a tensor, and "
            "loading it could run code. If you trust the file, load it with PyTorch and save its "
            "state dict alone"
        )

    def load_build(self) -> None:
        # Attributes of a state dict are PyTorch's version notes; nothing here needs them.
        self.stack.pop()
        if not isinstance(self.stack[-1], collections.OrderedDict):
            raise UnsafePickleError("refused: the pickle sets attributes on something")

    dispatch[pickle.BUILD[0]] = load_build

    def persistent_load(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise UnsafePickleError(f"refused: a persistent object that is not a storage: {pid!r}")
        _, kind, key, _, count, *view = pid
        if not isinstance(kind, _StorageType) or type(count) is not int or count < 0:
            raise PthError(f"corrupt: a storage described as {pid[2:]!r}")
        if any(v is not None for v in view):
            raise PthError(
                "a storage that is a view of another one (PyTorch before 0.4); save it anew"
            )
        return self._load_storage(kind.dtype, str(key), count)
