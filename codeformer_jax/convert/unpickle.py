"""An unpickler that makes only tensors and plain data: a `.pth` file cannot run code through it."""

import collections
import pickle
import reprlib
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from codeformer_jax.convert.errors import PthError, UnsafePickleError
from codeformer_jax.convert.stand_ins import QUANTIZED_DTYPES, STORAGE_DTYPES, StandIns, Storage


class _StorageType:
    """Stand-in for a class such as `torch.FloatStorage`: its dtype, None if untyped."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype | None):
        self.dtype = dtype


class ForeignName:
    """Stand-in for a class that a checkpoint names but does not need.

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


# Opcodes of data and tensors; old-style instances, extension codes and buffers are left out.
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
# damaged index grows to the machine's memory. It also lets opcodes be left out.
class TensorUnpickler(pickle._Unpickler):
    """Unpickler of what PyTorch's safe loader accepts, see `StandIns`; refuses everything else.

    Args:
        file: holds the pickle; has `read` and `readline`.
        load_storage: (dtype or None for untyped bytes, key, number of elements) -> storage.
        size: bytes of the whole file, which bound what is made.
    """

    dispatch: ClassVar[dict] = dict(_DISPATCH)

    def __init__(
        self,
        file: Any,
        load_storage: Callable[[np.dtype | None, str, int], Storage],
        size: int,
    ):
        super().__init__(file, encoding="utf-8")
        self._load_storage = load_storage
        self._stand_ins = StandIns(size)

    def find_class(self, module: str, name: str) -> Any:
        if (found := self._stand_ins.find(module, name)) is not None:
            return found
        storages = STORAGE_DTYPES | QUANTIZED_DTYPES
        if module in ("torch", "torch.cuda") and name in storages:
            return _StorageType(storages[name])
        if (module, name) == ("torch.storage", "UntypedStorage"):
            return _StorageType(None)
        if module.partition(".")[0] in ("pytorch_lightning", "lightning"):
            return ForeignName(f"{module}.{name}")
        raise UnsafePickleError(
            f"refused: the pickle names '{module}.{name}', which is not part of a tensor, and "
            "loading it could run code. If you trust the file, load it with PyTorch and save its "
            "state dict alone"
        )

    def load_build(self) -> None:
        # Attributes of a state dict are PyTorch's version notes, which are not needed.
        self.stack.pop()
        if not isinstance(self.stack[-1], collections.OrderedDict):
            raise UnsafePickleError("refused: the pickle sets attributes on something")

    def load_reduce(self) -> None:
        self._stand_ins.charge(self.stack[-1])
        super().load_reduce()

    def load_setitem(self) -> None:
        self._charge_keys(self.stack[-2:])
        super().load_setitem()

    def load_setitems(self) -> None:
        self._charge_keys(self.stack)
        super().load_setitems()

    def load_dict(self) -> None:
        self._charge_keys(self.stack)
        super().load_dict()

    def _charge_keys(self, pairs: list) -> None:
        """Charges keys that take time to hash: nested tuples."""
        for key in pairs[::2]:
            if isinstance(key, tuple):
                self._stand_ins.charge(key)

    dispatch |= {
        pickle.BUILD[0]: load_build,
        pickle.REDUCE[0]: load_reduce,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
    }

    def persistent_load(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise UnsafePickleError(
                f"refused: a persistent object that is not a storage: {reprlib.repr(pid)}"
            )
        _, kind, key, _, count, *view = pid
        known = isinstance(kind, _StorageType) and isinstance(key, str | int)
        if not known or type(count) is not int or count < 0:
            raise PthError(f"corrupt: a storage described as {reprlib.repr(pid[2:])}")
        if any(v is not None for v in view):
            raise PthError(
                "a storage that is a view of another one (PyTorch before 0.4); save it again with "
                "a newer PyTorch"
            )
        return self._load_storage(kind.dtype, str(key), count)
