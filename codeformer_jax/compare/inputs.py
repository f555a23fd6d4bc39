"""Inputs of a network from image files and `.npy` files."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codeformer_jax.convert.networks import lookup
from codeformer_jax.data.images import read_image
from codeformer_jax.system import storage
from codeformer_jax.system.atomic import atomic_path
from codeformer_jax.system.storage import Path

StrPath = str | os.PathLike


def read_inputs(paths: Sequence[StrPath], network: str, module: Any) -> tuple[np.ndarray, ...]:
    """Reads the arguments of a network, one per file.

    An image file becomes float32 [1, h, w, 3] in [-1, 1]. A `.npy` file holds images as PyTorch has
    them, [b, 3, h, w], or as [b, h, w, 3]: floating point is taken as it is, uint8 is mapped to
    [-1, 1]. Networks over codes or pixel values take integers.

    Args:
        paths: image or `.npy` files, as many as the network has inputs.
        network: registered name.
        module: its module.

    Returns:
        float32 or int32 arrays, images as [b, h, w, 3].

    Raises:
        FileNotFoundError: no such file.
        ValueError: another number of files, an unreadable file, or an array of another form or
            dtype.
    """
    expected = [x for x in lookup(network).inputs(module)[0] if x is not None]
    if len(paths) != len(expected):
        raise ValueError(
            f"INPUT: {network} takes {len(expected)} file{'s' * (len(expected) > 1)}; got "
            f"{len(paths)}"
        )
    return tuple(_read(p, like, network) for p, like in zip(paths, expected, strict=True))


def read_images(path: StrPath) -> np.ndarray:
    """Reads a batch of images, see `read_inputs`; float32 [b, h, w, 3] in [-1, 1].

    Raises:
        FileNotFoundError, ValueError: see `read_inputs`.
    """
    return _read(path, jax.ShapeDtypeStruct((1, 1, 1, 3), jnp.float32), "a training step")


def save_inputs(path: StrPath, args: Sequence[Any]) -> list[Path]:
    """Writes arguments as `.npy` files in PyTorch's layout, for `trace_torch.py --input`.

    Args:
        path: file to write or replace. With several arguments, argument n goes to
            'STEM.n.npy', counted from 0.
        args: arrays, images as [b, h, w, c].

    Returns:
        The files.

    Raises:
        ValueError: a path that does not end in '.npy'.
    """
    path = storage.to_path(path)
    if path.suffix != ".npy":
        raise ValueError(f"--save-input: {path} must end in .npy")
    several = [path.with_suffix(f".{number}.npy") for number in range(len(args))]
    files = [path] if len(args) == 1 else several
    for file, array in zip(files, map(np.asarray, args), strict=True):
        with atomic_path(file) as temporary, open(temporary, "wb") as opened:
            np.save(opened, array.transpose(0, 3, 1, 2) if array.ndim == 4 else array)
    return files


def in_dtype(x: Any, dtype: str) -> np.ndarray:
    """Returns an array in a floating-point dtype; integers stay as they are."""
    x = np.asarray(x)
    return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _read(path: StrPath, like: jax.ShapeDtypeStruct, network: str) -> np.ndarray:
    path = storage.to_path(path)
    integers = jnp.issubdtype(like.dtype, jnp.integer)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix.lower() == ".npy":
        array = _load_npy(path)
    elif integers:
        raise ValueError(f"{path}: {network} takes integers; save them as a .npy file")
    else:
        array = read_image(path).pixels[None]
    given = f"{array.dtype} {list(array.shape)}"
    if integers:
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"{path}: {given}; {network} takes integers")
        return _channels_last(array, like.shape[-1]).astype(np.int32)
    array = _channels_last(array, like.shape[-1])
    if array.dtype == np.uint8:
        array = array.astype(np.float32) / np.float32(127.5) - 1
    elif not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{path}: {given}; images are floating point in [-1, 1], or uint8")
    if array.ndim != 4 or array.shape[-1] != 3:
        raise ValueError(
            f"{path}: {given}; expected [batch, 3, height, width] or [batch, height, width, 3]"
        )
    return array.astype(np.float32)


def _load_npy(path: Path) -> np.ndarray:
    try:
        with storage.local_copy(path) as local:
            array = np.load(local, allow_pickle=False)
    except (ValueError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: not a .npy file of numbers, or truncated ({reason})") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path}: an archive of arrays; save one array with numpy.save")
    return array


def _channels_last(array: np.ndarray, channels: int) -> np.ndarray:
    """Returns maps [b, c, h, w] as [b, h, w, c]; any other array as it is."""
    if array.ndim == 4 and array.shape[1] == channels:
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1))
    return array
