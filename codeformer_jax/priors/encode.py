"""Codes of a whole dataset by a stage-I network, both orientations, for stages II and III to read.

`data.precomputed_codes` has the format.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tqdm
from jaxtyping import Array, Int, UInt8

from codeformer_jax.checkpoints.teachers import teacher_of
from codeformer_jax.checkpoints.trained import load_trained
from codeformer_jax.convert import code_fingerprint, network_of
from codeformer_jax.convert.fingerprint import ENCODING
from codeformer_jax.convert.networks import lookup
from codeformer_jax.data.examples import Element, Source, listing_digest
from codeformer_jax.data.pipeline import evaluation_batches
from codeformer_jax.data.precomputed_codes import (
    ARRAY_FILE,
    DESCRIPTION_FILE,
    Description,
    write_codes,
)
from codeformer_jax.data.sources import open_source
from codeformer_jax.nn import Autoencoder
from codeformer_jax.nn.precision import with_precision
from codeformer_jax.system import parallel, storage
from codeformer_jax.system.atomic import atomic_directory
from codeformer_jax.system.storage import Path
from codeformer_jax.tasks.common import from_uint8

Encode = Callable[[UInt8[np.ndarray, "b h w 3"]], Int[Array, "b 2 n"]]

# As in the configs of stages II and III, for model files, which have no data settings.
DATA_DEFAULTS = {"heldout_fraction": 0.01, "max_unreadable": 100, "workers": 0}
_PER_DEVICE = 8


def encode_dataset(
    checkpoint: str | Path,
    target: str | Path,
    *,
    data: str | None = None,
    size: int | None = None,
    heldout_fraction: float | None = None,
    workers: int | None = None,
    batch_size: int | None = None,
    mesh: str = "data:-1",
    force: bool = False,
) -> Description:
    """Writes the codes of the images that a run with the same data settings would train on.

    Args:
        checkpoint: model file or workdir of a VQGAN or VQ-VAE, or workdir of a network that
            was trained on the codes of one, which then encodes.
        target: folder to write.
        data: as `data.path` of a config; None is what the checkpoint's own run trained on.
        size: side of the pictures in pixels; None is the network's.
        heldout_fraction, workers: as in a config's `data`; None is the checkpoint's run's, and for
            a model file 0.01 and 0.
        batch_size, mesh, force: see `encode_source`.

    Returns:
        The description that was written.

    Raises:
        FileNotFoundError: checkpoint or images are missing.
        ValueError: settings that do not fit together, or images that cannot be read.
        Others: as `encode_source`.
    """
    check_target(target, force)
    trained = load_trained(checkpoint)
    module, variables = teacher_of(trained, checkpoint)
    if trained.config is None and data is None:
        raise ValueError("a model file does not say what it was trained on: give --data SOURCE")
    own = {} if trained.config is None else trained.config.data.to_dict()
    given = {"path": data, "heldout_fraction": heldout_fraction, "workers": workers}
    given = {name: value for name, value in given.items() if value is not None}
    given |= {"image_size": size or module.image_size, "cache": False}
    settings = ml_collections.ConfigDict(DATA_DEFAULTS | own | given)
    path, fraction = settings.get("path"), settings.heldout_fraction
    return encode_source(
        open_source(settings, "train"),
        target,
        module,
        variables,
        described=f"{path}, heldout_fraction={fraction}" if path else "synthetic faces",
        workers=settings.workers,
        batch_size=batch_size,
        mesh=mesh,
        force=force,
        precision=trained.precision,
    )


def encode_source(
    source: Source,
    target: str | Path,
    module: Autoencoder,
    variables: Any,
    *,
    described: str,
    workers: int = 0,
    batch_size: int | None = None,
    mesh: str = "data:-1",
    force: bool = False,
    precision: str = "default",
) -> Description:
    """Writes the codes of a source's images, as they are and mirrored, with a bar on stderr.

    `target` appears when it is complete. An interrupted call leaves nothing and starts again.

    Args:
        source: square images of one size.
        target: folder to write.
        module, variables: an autoencoder, its codebook a parameter; see `teachers.teacher_of`.
        described: the source in words, for messages.
        workers: processes that read; 0 reads in threads.
        batch_size: pictures at once over all devices, each in both orientations; None is 8 for
            each device.
        mesh: devices, see `parallel.make_mesh`.
        force: replace the codes in `target`.
        precision: precision of products and convolutions; see `nn.precision`.

    Returns:
        The description that was written.

    Raises:
        FileExistsError: `target` exists, and is not a folder of codes or `force` is off.
        ValueError: no images, or sizes that do not divide.
        OSError: `target` cannot be written.
    """
    check_target(target, force)
    devices = parallel.make_mesh(mesh)
    batch_size = _PER_DEVICE * devices.size if batch_size is None else batch_size
    if batch_size < 1 or batch_size % devices.size:
        raise ValueError(
            f"batch_size={batch_size} does not divide over {devices.size} devices; give a multiple "
            "of them, or take fewer with --mesh"
        )
    description = _describe(source, described, module, variables)
    loader = evaluation_batches(_InOrder(source), batch_size=batch_size, workers=workers)
    encode = make_encode(module, variables, devices, precision)
    bar = tqdm.tqdm(desc="encode", unit="image", total=len(source), dynamic_ncols=True)
    published = atomic_directory(target, replace=force, marker=DESCRIPTION_FILE)
    with contextlib.closing(loader), bar, published as folder:
        description = write_codes(folder, description, _encoded(loader, encode, bar))
        check_target(target, force)  # Again: encoding takes long.
    return description


def check_target(target: str | Path, force: bool) -> None:
    """Raises FileExistsError unless `target` is free, or holds codes that `force` replaces."""
    target = storage.to_path(target)
    if not target.exists():
        return
    if not force:
        raise FileExistsError(f"{target}: exists; pass --force to replace the codes in it")
    # In a bucket a killed call leaves the codes without their description.
    partial = storage.is_remote(target) and storage.sizes(target).keys() == {ARRAY_FILE}
    if not partial and not (target / DESCRIPTION_FILE).is_file():
        raise FileExistsError(
            f"{target}: exists and holds no codes (no {DESCRIPTION_FILE}); --force replaces only "
            "codes, so name another folder"
        )


def make_encode(
    module: Autoencoder, variables: Any, mesh: jax.sharding.Mesh, precision: str = "default"
) -> Encode:
    """Returns the compiled function images -> codes [b, 2, n], as they are and mirrored.

    It returns before the devices have finished.

    Args:
        module, variables: the network, of which encoder and codebook are used.
        mesh: devices that share a batch; b must be a multiple of their number.
        precision: precision of products and convolutions; see `nn.precision`.
    """

    def encode(params, images):
        real = from_uint8(images)
        # Both orientations side by side, so that no picture changes its device.
        both = jnp.stack([real, real[:, :, ::-1]], axis=1)
        quantized = module.apply(
            {"params": params}, both.reshape(-1, *real.shape[1:]), method="encode"
        )
        return quantized.indices.reshape(real.shape[0], 2, -1)

    batch = parallel.batch_sharding(mesh)
    encode = with_precision(precision, encode)
    compiled = jax.jit(encode, in_shardings=(parallel.replicated(mesh), batch), out_shardings=batch)
    params = variables["params"]
    if lookup(network_of(module)).code_fields:  # The decoder is not needed.
        params = {name: params[name] for name in ENCODING if name in params}
    params = jax.device_put(params, parallel.replicated(mesh))
    return lambda images: compiled(params, images)


class _InOrder:
    """The examples of a source in its order, also of a mixture, which is no longer one."""

    def __init__(self, source: Source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Element:
        return self._source[index]


def _encoded(
    batches: Iterable[dict[str, np.ndarray]], encode: Encode, bar: tqdm.tqdm
) -> Iterator[Int[np.ndarray, "_ 2 n"]]:
    """Yields the codes of each batch, one batch behind the devices."""
    dispatched = []
    for batch in batches:
        dispatched.append(encode(batch["image"]))
        if len(dispatched) > 1:
            yield np.asarray(dispatched.pop(0))
        bar.update(int(batch["valid"].sum()))
    yield from map(np.asarray, dispatched)


def _describe(source: Source, described: str, module: Autoencoder, variables: Any) -> Description:
    if not len(source):
        raise ValueError(f"no images to encode in '{described}'")
    size = source[0]["image"].shape[0]
    if size % module.downsampling:
        raise ValueError(
            f"images of {size} px do not divide into codes of {module.downsampling} px; give a "
            f"multiple as --size, for example {module.image_size}"
        )
    return Description(
        fingerprint=code_fingerprint(module, variables),
        source=described,
        listing=listing_digest(source),
        image_size=size,
        grid=(size // module.downsampling,) * 2,
        codebook_size=module.codebook_size,
        number=len(source),
    )
