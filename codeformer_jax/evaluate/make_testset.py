"""Making of test sets: each picture is degraded once, with a key from its name and the seed.

Pictures are degraded one at a time, in float32 on the CPU, so that the result depends neither on
the other pictures nor on an accelerator.
"""

import concurrent.futures
import json
import os
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
from codeformer_jax.evaluate.evaluation import json_values
from codeformer_jax.evaluate.testset import (
    FORMAT,
    HALVES,
    MANIFEST,
    StoredPairs,
    content_hash,
    listing,
)
from codeformer_jax.system import process, storage
from codeformer_jax.system.atomic import atomic_directory
from codeformer_jax.system.hashes import file_sha256
from codeformer_jax.system.keys import make_key
from codeformer_jax.system.storage import Path
from codeformer_jax.system.workers import usable_cores

_THREADS = 4  # Read, encode and write files while others are degraded.

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
) -> StoredPairs:
    """Writes a test set of clean pictures; see `evaluate.testset` for its files.

    A picture's name in the set is its path below the given folder, or its file name, with the
    ending .png and in Unicode form C. Its degradation is drawn from that name and the seed, so that
    adding or removing pictures changes no other pair. Pictures are cropped to their centred square
    and resized, as for training. A test set never shrinks silently: a picture that cannot be read,
    or whose shorter side is below half of `size`, raises an error.

    Args:
        inputs: folders, searched at any depth, and files.
        output: folder to make. It appears complete or not at all.
        recipe: one of `degrade.RECIPES`.
        seed: 0..2**32-1.
        size: side of the pictures in pixels.
        limit: largest number of pictures, in order of their names.
        force: replace a test set at `output`.

    Returns:
        The test set.

    Raises:
        FileExistsError: `output` exists and `force` is False, or it holds other files.
        ValueError: an option out of range, no pictures, two of one name, or unreadable ones.
        OSError: `output` cannot be written.
    """
    _check_options(seed, size, limit)
    output, inputs = storage.to_path(output), [*map(storage.to_path, inputs)]
    _check_output(output, inputs, force)
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
    with atomic_directory(output, replace=force, marker=MANIFEST) as staging:
        manifest["pairs"] = _write_pairs(files, staging, pair, size)
        manifest["sha256"] = content_hash(manifest)
        (staging / MANIFEST).write_text(_manifest_text(manifest), encoding="ascii")
    return StoredPairs(output, manifest)


def name_key(seed: int, name: str) -> Key[Array, ""]:
    """Returns the key of a picture.

    Args:
        seed: seed of the test set, 0..2**32-1.
        name: name of the picture in the set. `fold_in` takes the two halves of its 64-bit hash,
            since names would collide in 32 bits.
    """
    high, low = map(np.uint32, divmod(name_hash(name), 2**32))
    key = make_key(np.uint32(seed))
    return jax.random.fold_in(jax.random.fold_in(key, high), low)


@jax.jit
def degrade_picture(
    picture: UInt8[Array, "s s 3"], key: Key[Array, ""], recipe: Recipe
) -> tuple[UInt8[Array, "s s 3"], Parameters]:
    """Degrades one picture.

    Args:
        picture: clean picture.
        key: key of the picture.
        recipe: recipe of the degradation.

    Returns:
        The degraded picture in 8 bits, and the parameters that were drawn for it.
    """
    clean = picture[None].astype(jnp.float32) / 255
    degraded = degrade(clean, key[None], recipe)[0]
    # The same split as inside `degrade`; the compiler merges the two draws.
    parameters = draw(jax.random.split(key)[0], recipe, picture.shape[0])
    return jnp.round(degraded * 255).astype(jnp.uint8), parameters


def _compiled(recipe: str, seed: int, size: int) -> tuple[_Pair, Any]:
    """Compiles `degrade_picture` for the CPU; returns it and the recipe's ranges as JSON values."""
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        if process.no_devices(error):
            raise
        raise ValueError(
            "JAX_PLATFORMS leaves out the CPU, on which test sets are made; add it, such as "
            "JAX_PLATFORMS=cuda,cpu"
        ) from error
    with jax.default_device(cpu):
        ranges = Recipe.named(recipe)
        shape = jax.ShapeDtypeStruct((size, size, 3), jnp.uint8)
        compiled = degrade_picture.lower(shape, name_key(seed, ""), ranges).compile()

    def pair(picture: np.ndarray, name: str):
        with jax.default_device(cpu):  # Applies to one thread only.
            key = name_key(seed, name)
            degraded, parameters = compiled(jnp.asarray(picture), key, ranges)
            return np.asarray(degraded), np.asarray(jax.random.key_data(key)), parameters

    return pair, json_values(ranges)


def _write_pairs(
    files: Mapping[str, Path],
    folder: Path,
    pair: _Pair,
    size: int,
) -> list[dict[str, Any]]:
    """Writes both halves of every pair below `folder`; returns the manifest's entries, in order."""
    unreadable: dict[str, str] = {}

    def make(item: tuple[str, Path]) -> dict[str, Any]:
        name, file = item
        try:
            pixels = read_image(file).pixels
        except UnreadableImage as error:
            unreadable[os.fspath(file)] = error.reason
        if unreadable:
            return {}  # The set fails; the remaining files are read to list all bad ones.
        truth = resize_image(pixels, size)
        degraded, key, parameters = pair(truth, name)
        entry = {"name": name, "key": key.tolist(), "parameters": json_values(parameters)}
        for half, picture in zip(HALVES, (degraded, truth), strict=True):
            path = folder / half / name
            write_image(path, picture)
            entry[half] = file_sha256(path)
        return entry

    threads = concurrent.futures.ThreadPoolExecutor(min(_THREADS, usable_cores()))
    try:
        made = threads.map(make, files.items())
        pairs = list(tqdm.tqdm(made, "testset", len(files), unit="pair", disable=None))
    finally:
        threads.shutdown(cancel_futures=True)  # Otherwise Ctrl-C waits for all files.
    _refuse(unreadable)
    return pairs


def _manifest_text(manifest: Mapping[str, Any]) -> str:
    """Returns JSON with one line per pair: a recipe may draw whole kernels."""
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


def _check_output(output: Path, inputs: Sequence[Path], force: bool):
    place = storage.resolved(output)
    for given in map(storage.resolved, inputs):
        if place.is_relative_to(given) or given.is_relative_to(place):
            raise ValueError(
                f"'{output}' and the pictures in '{given}' are inside each other; give an output "
                "folder elsewhere, so that results and originals do not mix"
            )
    if not storage.lexists(output) or (output.is_dir() and not any(output.iterdir())):
        return
    if not force:
        raise FileExistsError(
            f"'{output}' exists; give another folder, or --force to replace the test set there"
        )
    remote = storage.is_remote(output)
    if remote:
        held = {name.partition("/")[0] for name in storage.sizes(output)}
    else:
        held = {path.name for path in output.iterdir()} if output.is_dir() else set()
    # In a bucket a killed call leaves pictures without a manifest.
    if not (held if remote else MANIFEST in held) or not held <= {MANIFEST, *HALVES}:
        raise FileExistsError(
            f"'{output}' holds other files than those of a test set, which is all that --force "
            "replaces; give another folder, or remove it yourself"
        )


def _named_files(inputs: Sequence[Path]) -> dict[str, Path]:
    """Returns {name in the set: file}, sorted by name.

    Raises ValueError if two files would get one name, also where a file system ignores case.
    """
    files: dict[str, Path] = {}
    folded: dict[str, Path] = {}
    for given in inputs:
        inside = [(n, given / n) for n in image_names(given)] if given.is_dir() else None
        for relative, file in inside or [(given.name, given)]:
            stem = os.path.splitext(relative)[0] if has_picture_suffix(relative) else relative
            name = unicodedata.normalize("NFC", f"{stem}.png")
            other = folded.setdefault(name.casefold(), file)
            if other is not file:
                raise ValueError(
                    f"'{other}' and '{file}' would both be '{name}' in the test set (endings and "
                    "case do not distinguish them); rename one, or give the folder above both"
                )
            files[name] = file
    if not files:
        raise ValueError("no pictures given; give a folder of images, or image files")
    return dict(sorted(files.items()))


def _check_headers(files: Mapping[str, Path], size: int):
    """Raises ValueError for files that are not pictures and for pictures too small for `size`."""

    def side_or_reason(file: Path) -> int | str:
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
    smaller = f"Give --size {least}, or remove" if least >= MINIMUM_IMAGE_SIZE else "Remove"
    return (
        f"{len(small)} of {len(sides)} pictures are too small for --size {size}, which takes a "
        f"shorter side of at least {size // 2} px; theirs is {measured}. {smaller} the small ones, "
        "since a test set does not shrink silently"
    )


def _refuse(unreadable: Mapping[str, str], too_small: str = ""):
    faults = [too_small] if too_small else []
    if unreadable:
        faults.append(
            f"cannot use {len(unreadable)} of the pictures, and a test set must not shrink "
            "silently; repair or remove them:" + listing(unreadable)
        )
    if faults:
        raise ValueError("\n".join(faults))


def _versions() -> dict[str, str]:
    """Returns the versions that may change single levels or the bytes of a file."""
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
