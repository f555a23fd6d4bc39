"""Makes test sets: every picture is degraded once, by a key that only its name and the seed fix.

Always one picture at a time, in float32 on the CPU: what becomes of a picture depends neither on
the others nor on an accelerator.
"""

import concurrent.futures
import json
import os
import pathlib
import platform
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import PIL
import tqdm
from jaxtyping import Array, Key, UInt8
from PIL import features

from codeformer_jax import __version__
from codeformer_jax.data.folder import image_names, name_hash
from codeformer_jax.data.images import (
    UnreadableImage,
    has_picture_suffix,
    image_size,
    read_image,
    resize_image,
    write_image,
)
from codeformer_jax.data.pipeline import check_seed
from codeformer_jax.degrade import MINIMUM_IMAGE_SIZE, Parameters, Recipe, degrade, draw
from codeformer_jax.evaluate.testset import (
    FORMAT,
    HALVES,
    MANIFEST,
    StoredPairs,
    content_hash,
    file_hash,
    listing,
)
from codeformer_jax.evaluate.values import json_values
from codeformer_jax.ops.random import make_key
from codeformer_jax.system import process
from codeformer_jax.system.atomic import atomic_directory
from codeformer_jax.system.workers import usable_cores

_THREADS = 4  # Files are read, encoded and written while others are degraded.

# (picture [s, s, 3], name) -> degraded picture, key data, parameters.
_Pair = Callable[[np.ndarray, str], tuple[np.ndarray, np.ndarray, Parameters]]


def make_testset(
    inputs: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    recipe: str = "celeba-test",
    seed: int = 0,
    size: int = 512,
    limit: int | None = None,
    force: bool = False,
    progress: bool | None = False,
) -> StoredPairs:
    """Writes a test set, see `evaluate.testset`, of clean pictures.

    A picture's name in the set is its path below the folder given, or its file name, with the
    ending .png and in Unicode form C. What is drawn follows from that name and the seed, so that
    pictures which are added or taken away change no other pair. Pictures are cropped to their
    centred square and resized, as for training; one that cannot be read, or whose shorter side is
    below half of `size`, is an error: a test set never shrinks silently.

    Args:
        inputs: folders, searched at any depth, and files.
        output: folder to make. It appears complete or not at all.
        recipe: one of `degrade.RECIPES`.
        seed: 0..2**32-1.
        size: side of the pictures in pixels.
        limit: take only the first so many pictures, by name.
        force: replace a test set that stands at `output`.
        progress: a progress bar; None shows it on terminals only.

    Raises:
        FileExistsError: `output` exists and `force` is off, or it holds something else.
        ValueError: an option out of range, no pictures, two of one name, or unreadable ones.
        OSError: `output` cannot be written.
    """
    _check_options(seed, size, limit)
    output = pathlib.Path(output)
    _check_output(output, [pathlib.Path(given) for given in inputs], force)
    files = dict(list(_named_files(inputs).items())[:limit])
    _check_headers(files, size)
    pair, ranges = _compiled(recipe, seed, size)
    manifest = {
        "format": FORMAT,
        "recipe": {"name": recipe, "ranges": ranges},
        "seed": seed,
        "size": size,
        "made_with": _versions(),
    }
    try:
        with atomic_directory(output, replace=force) as staging:
            manifest["pairs"] = _write_pairs(files, staging, pair, size, progress)
            manifest["sha256"] = content_hash(manifest)
            (staging / MANIFEST).write_text(_manifest_text(manifest), encoding="ascii")
    except OSError as error:
        error.filename = error.filename or os.fspath(output)  # A full disk names no file.
        raise
    return StoredPairs(output, manifest)


def name_key(seed: int, name: str) -> Key[Array, ""]:
    """The key of the picture of this name: `fold_in` twice, as 32 bits would let names collide."""
    high, low = map(np.uint32, divmod(name_hash(name), 2**32))
    key = make_key(np.uint32(seed))
    return jax.random.fold_in(jax.random.fold_in(key, high), low)


@jax.jit
def degrade_picture(
    picture: UInt8[Array, "s s 3"], key: Key[Array, ""], recipe: Recipe
) -> tuple[UInt8[Array, "s s 3"], Parameters]:
    """What `degrade` makes of one picture, in 8 bits, and the parameters that it draws."""
    clean = picture[None].astype(jnp.float32) / 255
    degraded = degrade(clean, key[None], recipe)[0]
    # As `degrade` itself splits its keys; the compiler leaves one of the two draws.
    parameters = draw(jax.random.split(key)[0], recipe, picture.shape[0])
    return jnp.round(degraded * 255).astype(jnp.uint8), parameters


def _compiled(recipe: str, seed: int, size: int) -> tuple[_Pair, Any]:
    """`degrade_picture` compiled for the CPU, and the recipe's ranges as JSON values."""
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        if process.no_devices(error):
            raise
        raise ValueError(
            "test sets are made on the CPU, which JAX was told to leave out; add it, such as "
            "JAX_PLATFORMS=cuda,cpu"
        ) from error
    with jax.default_device(cpu):
        ranges = Recipe.named(recipe)
        shape = jax.ShapeDtypeStruct((size, size, 3), jnp.uint8)
        compiled = degrade_picture.lower(shape, name_key(seed, ""), ranges).compile()

    def pair(picture: np.ndarray, name: str):
        with jax.default_device(cpu):  # It holds for one thread only.
            key = name_key(seed, name)
            degraded, parameters = compiled(jnp.asarray(picture), key, ranges)
            return np.asarray(degraded), np.asarray(jax.random.key_data(key)), parameters

    return pair, json_values(ranges)


def _write_pairs(
    files: Mapping[str, pathlib.Path],
    folder: pathlib.Path,
    pair: _Pair,
    size: int,
    progress: bool | None,
) -> list[dict[str, Any]]:
    """Writes both halves of every pair below `folder`; the manifest's entries, in order."""
    unreadable: dict[str, str] = {}

    def make(item: tuple[str, pathlib.Path]) -> dict[str, Any]:
        name, file = item
        try:
            pixels = read_image(file).pixels
        except UnreadableImage as error:
            unreadable[os.fspath(file)] = error.reason
        if unreadable:
            return {}  # Nothing will come of it; the others are read to name all the bad ones.
        truth = resize_image(pixels, size)
        degraded, key, parameters = pair(truth, name)
        entry = {"name": name, "key": key.tolist(), "parameters": json_values(parameters)}
        for half, picture in zip(HALVES, (degraded, truth), strict=True):
            path = folder / half / name
            write_image(path, picture)
            entry[half] = file_hash(path)
        return entry

    threads = concurrent.futures.ThreadPoolExecutor(min(_THREADS, usable_cores()))
    try:
        pairs = list(
            tqdm.tqdm(
                threads.map(make, files.items()),
                desc="testset",
                total=len(files),
                unit="pair",
                disable=None if progress is None else not progress,
            )
        )
    finally:
        threads.shutdown(cancel_futures=True)  # Or Ctrl-C would wait for all the others.
    _refuse(unreadable)
    return pairs


def _manifest_text(manifest: Mapping[str, Any]) -> str:
    """JSON with a line for each pair: a recipe may draw whole kernels."""
    rest = {name: value for name, value in manifest.items() if name != "pairs"}
    pairs = ",\n".join(json.dumps(pair, sort_keys=True) for pair in manifest["pairs"])
    opened = json.dumps(rest, indent=1, sort_keys=True).removesuffix("\n}")
    return f'{opened},\n "pairs": [\n{pairs}\n ]\n}}\n'


def _check_options(seed: int, size: int, limit: int | None):
    check_seed(seed)
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")


def _check_output(output: pathlib.Path, inputs: Sequence[pathlib.Path], force: bool):
    place = output.resolve()
    for given in (path.resolve() for path in inputs):
        if place == given or place in given.parents or given in place.parents:
            raise ValueError(
                f"'{output}' and the pictures in '{given}' lie within each other; give an output "
                "folder elsewhere, so that results and originals do not mix"
            )
    if not os.path.lexists(output) or (output.is_dir() and not any(output.iterdir())):
        return
    if not force:
        raise FileExistsError(
            f"'{output}' exists; give another folder, or --force to replace the test set there"
        )
    held = {path.name for path in output.iterdir()} if output.is_dir() else set()
    if MANIFEST not in held or not held <= {MANIFEST, *HALVES}:
        raise FileExistsError(
            f"'{output}' holds other files than those of a test set, which is all that --force "
            "replaces; give another folder, or remove it yourself"
        )


def _named_files(inputs: Sequence[str | os.PathLike]) -> dict[str, pathlib.Path]:
    """{name in the set: file}, sorted by name.

    Raises ValueError where two files would get one name, also on a file system that tells no case.
    """
    files: dict[str, pathlib.Path] = {}
    folded: dict[str, pathlib.Path] = {}
    for given in map(pathlib.Path, inputs):
        inside = [(n, given / n) for n in image_names(given)] if given.is_dir() else None
        for relative, file in inside or [(given.name, given)]:
            stem = os.path.splitext(relative)[0] if has_picture_suffix(relative) else relative
            name = f"{stem}.png"
            name = unicodedata.normalize("NFC", name)
            other = folded.setdefault(name.casefold(), file)
            if other is not file:
                raise ValueError(
                    f"'{other}' and '{file}' would both be '{name}' in the test set (endings and "
                    "upper or lower case do not tell them apart); rename one, or give the folder "
                    "above both"
                )
            files[name] = file
    if not files:
        raise ValueError("no pictures given; give a folder of images, or image files")
    return dict(sorted(files.items()))


def _check_headers(files: Mapping[str, pathlib.Path], size: int):
    """Refuses files that are no pictures, and pictures too small for `size`: those in one line."""

    def side_or_reason(file: pathlib.Path) -> int | str:
        try:
            return min(image_size(file))
        except UnreadableImage as error:
            return error.reason

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        found = dict(zip(files.values(), threads.map(side_or_reason, files.values()), strict=True))
    sides = [found for found in found.values() if isinstance(found, int)]
    small = [side for side in sides if side < size // 2]
    _refuse(
        {os.fspath(file): reason for file, reason in found.items() if isinstance(reason, str)},
        _too_small(small, sides, size) if small else "",
    )


def _too_small(small: Sequence[int], sides: Sequence[int], size: int) -> str:
    least, most = min(small), max(small)
    measured = f"{least} px" if least == most else f"{least} to {most} px"
    smaller = f"Give --size {least}, or take" if least >= MINIMUM_IMAGE_SIZE else "Take"
    return (
        f"{len(small)} of {len(sides)} pictures are too small for --size {size}, which takes a "
        f"shorter side of at least {size // 2} px, and theirs is {measured}. {smaller} the small "
        "ones away, so that a test set does not shrink silently"
    )


def _refuse(unreadable: Mapping[str, str], too_small: str = ""):
    faults = [too_small] if too_small else []
    if unreadable:
        faults.append(
            f"cannot use {len(unreadable)} of the pictures, and a test set must not shrink "
            "silently; repair them or take them away:" + listing(unreadable)
        )
    if faults:
        raise ValueError("\n".join(faults))


def _versions() -> dict[str, str]:
    """What may make a difference in single levels or in a file's bytes."""
    return {
        "codeformer_jax": __version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "machine": platform.machine(),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "zlib": str(features.version("zlib")),
        "zlib_ng": str(features.version_feature("zlib_ng")),
    }
