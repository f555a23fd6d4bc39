"""Precision of matrix products and convolutions, set for all of a function at once.

Inputs and outputs of a product are float32. The platform chooses how to compute it: TensorFloat-32
on NVIDIA GPUs from Ampere on, bfloat16 on TPUs, float32 on CPUs. 'highest' is float32 everywhere.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax

PRECISIONS = ("default", "high", "highest")


def check_precision(name: str) -> None:
    """Raises ValueError for a name that is not in `PRECISIONS`."""
    if name not in PRECISIONS:
        raise ValueError(f"model.precision is {name!r}; expected one of {', '.join(PRECISIONS)}")


def products_in(precision: str) -> contextlib.AbstractContextManager:
    """Returns a context in which this thread traces products and convolutions with a precision.

    Products that set their own precision keep it. 'default' changes nothing, so that
    JAX_DEFAULT_MATMUL_PRECISION holds.

    Args:
        precision: one of `PRECISIONS`.

    Raises:
        ValueError: for another name.
    """
    check_precision(precision)
    if precision == "default":
        return contextlib.nullcontext()
    return jax.default_matmul_precision(precision)


def with_precision(precision: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function` with a precision for its products, whichever thread traces it.

    Args:
        precision: see `products_in`.
        function: function of arrays.
    """
    check_precision(precision)

    @functools.wraps(function)
    def precise(*args: Any, **kwargs: Any) -> Any:
        with products_in(precision):
            return function(*args, **kwargs)

    return precise
