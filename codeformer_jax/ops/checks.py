"""Checks of array arguments; every error says what was given and what to pass instead.

NumPy and JAX arrays are both accepted. The functions return JAX arrays.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Key, Shaped

from codeformer_jax.system.keys import threefry_keys

# Array argument of a public function; its docstring gives dtype and shape, a check enforces them.
AnyArray = Shaped[Array | np.ndarray, "..."]

# Lowest value of the range -> expression that converts 8-bit levels to it.
_FROM_LEVELS = {-1: '.astype("float32") / 127.5 - 1', 0: '.astype("float32") / 255'}
_IMAGE_AXES = ("batch", "height", "width")


def as_images(
    images: Any,
    name: str = "images",
    *,
    low: int = -1,
    channels: int | None = 3,
    dtype: DTypeLike = jnp.float32,
) -> Array:
    """Returns a batch of images as a JAX array.

    Args:
        images: floating point [batch, height, width, channels].
        name: name of the argument in error messages.
        low: lowest value of the range, -1 or 0; the highest is 1. Values are not checked.
        channels: number of channels; None accepts any.
        dtype: dtype of the computation; float64 images require float64.

    Raises:
        ValueError: for another number of axes or channels.
        TypeError: for integers, or float64 that was not asked for.
    """
    given, shape = _describe(images)
    axes = (*_IMAGE_AXES, "channels" if channels is None else str(channels))
    if len(shape) != 4 or (channels is not None and shape[3] != channels):
        remedy = ""
        if len(shape) == 3:
            remedy = f"; add a batch axis: {name}[None]"
        elif len(shape) == 4 and shape[1] == channels:
            remedy = f"; move the channels to the end: {name}.transpose(0, 2, 3, 1)"
        raise ValueError(f"{name} are {given}; expected {_shape(axes)}{remedy}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        how = f"{name}{_FROM_LEVELS[low]}"
        raise TypeError(f"{name} are {given}; pass float32 in [{low}, 1]: {how}")
    _refuse_float64(images, name, dtype)
    return jnp.asarray(images)


def as_features(
    values: Any, name: str, axes: Sequence[str], *, dtype: DTypeLike = jnp.float32
) -> Array:
    """Returns floating-point values as a JAX array.

    Args:
        values: floating point, with one axis for each of `axes`.
        name: name of the argument in error messages.
        axes: names of the axes, the batch first.
        dtype: dtype of the computation; float64 values require float64.

    Raises:
        ValueError: for another number of axes.
        TypeError: for integers, or float64 that was not asked for.
    """
    given, _ = _describe(values)
    _check_axes(values, name, axes)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise TypeError(f'{name} are {given}; pass float32: {name}.astype("float32")')
    _refuse_float64(values, name, dtype)
    return jnp.asarray(values)


def as_integers(values: Any, name: str, axes: Sequence[str]) -> Array:
    """Returns integers such as codes as a JAX array, int32 unless JAX has 64 bits enabled.

    Args:
        values: integers, with one axis for each of `axes`.
        name: name of the argument in error messages.
        axes: names of the axes, the batch first.

    Raises:
        ValueError: for another number of axes.
        TypeError: for values that are not integers.
    """
    given, _ = _describe(values)
    _check_axes(values, name, axes)
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise TypeError(f'{name} are {given}; pass integers: {name}.astype("int32")')
    return jnp.asarray(values)


def as_keys(keys: Any, batch: int, what: str = "image") -> Key[Array, "b"]:
    """Returns one threefry key for each element of a batch; see `system.keys`.

    Args:
        keys: typed keys [batch] of any implementation.
        batch: expected number of keys.
        what: name of an element in error messages.

    Raises:
        TypeError: for old-style keys, or an array that holds no keys.
        ValueError: for another number of keys.
    """
    make = f"jax.random.split(jax.random.key(seed), {batch})"
    given, shape = _describe(keys)
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        old = keys.dtype == jnp.uint32
        kind = "an old-style key of jax.random.PRNGKey" if old else "no keys"
        raise TypeError(f"keys are {given}, which is {kind}; pass one typed key per {what}: {make}")
    if shape != (batch,):
        raise ValueError(
            f"keys have shape {list(shape)}; expected one key per {what} for {batch}: {make}"
        )
    return threefry_keys(keys)


def as_pair(**arrays: Any) -> tuple[Array, Array]:
    """Returns two floating-point arrays of one shape as JAX arrays.

    Args:
        **arrays: two arrays by the names that error messages use.

    Raises:
        ValueError: for different shapes.
        TypeError: for integers, whose differences would wrap around.
    """
    (first, a), (second, b) = arrays.items()
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            given = _describe(array)[0]
            raise TypeError(f'{name} are {given}; pass float32: {name}.astype("float32")')
    if a.shape != b.shape:
        raise ValueError(
            f"{first} have shape {list(a.shape)} and {second} {list(b.shape)}; pass two of one "
            "shape"
        )
    return jnp.asarray(a), jnp.asarray(b)


def _describe(array: Any) -> tuple[str, tuple[int, ...]]:
    """Returns dtype and shape in words, and the shape."""
    if not hasattr(array, "dtype"):
        raise TypeError(f"expected a NumPy or JAX array; got a {type(array).__name__}")
    return f"{array.dtype} {list(array.shape)}", tuple(array.shape)


def _shape(axes: Sequence[str]) -> str:
    return f"[{', '.join(axes)}]"


def _check_axes(values: Any, name: str, axes: Sequence[str]) -> None:
    given, shape = _describe(values)
    if len(shape) == len(axes):
        return
    missing = len(shape) == len(axes) - 1
    remedy = f"; add a batch axis: {name}[None]" if missing else ""
    raise ValueError(f"{name} are {given}; expected {_shape(axes)}{remedy}")


def _refuse_float64(values: Any, name: str, dtype: DTypeLike) -> None:
    if values.dtype == np.float64 and jnp.dtype(dtype) != np.float64:
        raise TypeError(
            f'{name} are {_describe(values)[0]}; pass float32: {name}.astype("float32")'
        )
