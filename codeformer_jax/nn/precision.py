"""Precision of matrix products and convolutions, by one setting for all of a function's.

float32 is what goes in and comes out of a product; how it is computed is the platform's choice:
TensorFloat-32 on NVIDIA GPUs from Ampere on, bfloat16 on TPUs, float32 on CPUs. 'highest' is
float32 on all of them.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax

PRECISIONS = ("default", "high", "highest")


def check_precision(name: str) -> None:
    """Raises ValueError where there is no such precision."""
    if name not in PRECISIONS:
        raise ValueError(f"model.precision is {name!r}; expected one of {', '.join(PRECISIONS)}")


def products_in(precision: str) -> contextlib.AbstractContextManager:
    """Returns a context in which this thread traces products and convolutions of a precision.

    Those that ask for a precision themselves keep it. 'default' changes nothing, so that
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
    """Returns `function` whose products have a precision, in whichever thread it is traced.

    Args:
        precision: see `products_in`.
        function: of arrays.
    """
    check_precision(precision)

    @functools.wraps(function)
    def precise(*args: Any, **kwargs: Any) -> Any:
        with products_in(precision):
            return function(*args, **kwargs)

    return precise
