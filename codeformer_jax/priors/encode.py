"""Codes of a whole dataset by a stage-I network, both orientations, for stages II and III to read.

`data.codes` has the format.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tqdm
from jaxtyping import Array, Int, Int32, UInt8

from codeformer_jax.checkpoints.teachers import teacher_of
from codeformer_jax.checkpoints.trained import load_trained
from codeformer_jax.convert import code_fingerprint
from codeformer_jax.data.code_staging import Staging
from codeformer_jax.data.examples import Source, listing_digest
from codeformer_jax.data.pipeline import evaluation_batches
from codeformer_jax.data.precomputed_codes import (
    DESCRIPTION_FILE,
    Description,
    records_per_shard,
    write_shard,
)
from codeformer_jax.data.sources import open_source
from codeformer_jax.nn import Autoencoder
from codeformer_jax.nn.precision import with_precision
from codeformer_jax.system import parallel
from codeformer_jax.system.atomic import atomic_path
from codeformer_jax.tasks.common import from_uint8, precision_of

Encode = Callable[[UInt8[np.ndarray, "b h w 3"]], Int[Array, "b 2 n"]]

# As in the configs of stages II and III: with a model file nothing else says what they train on.
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

    Raises:
        FileNotFoundError: checkpoint or images are missing.
        ValueError: settings that do not fit together, or images that cannot be read.
        Others: as `encode_source`.
    """
    check_target(target, force)
    trained = load_trained(checkpoint)
    module, variables = teacher_of(trained, checkpoint)
    given = {"path": data, "heldout_fraction": heldout_fraction, "workers": workers}
    given["image_size"] = size or module.image_size
    settings = _data_settings(trained.config, given)
    return encode_source(
        open_source(settings, "train"),
        target,
        module,
        variables,
        described=_describe(settings),
        workers=settings.workers,
        batch_size=batch_size,
        mesh=mesh,
        force=force,
        precision=precision_of(trained.config),
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

    `target` appears when it is complete. Finished shards lie beside it until then: the same call
    after an interruption goes on from them, if the source lists the same images.

    Args:
        source: square images of one size.
        target: folder to write.
        module, variables: an autoencoder, its codebook a parameter: `train.start.teacher_of`.
        described: the source in words, for messages.
        workers: processes that read; 0 reads in threads.
        batch_size: pictures at once over all devices, each in both orientations; None is 8 for
            each device.
        mesh: devices, see `parallel.make_mesh`.
        force: replace the codes in `target`.
        precision: of products and convolutions; see `nn.precision`.

    Raises:
        FileExistsError: `target` exists, and is not a folder of codes or `force` is off.
        ValueError: no images, or sizes that do not divide.
        BlockingIOError: another process writes to `target`.
        OSError: `target` cannot be written.
    """
    target = Path(target)
    check_target(target, force)
    devices = parallel.make_mesh(mesh)
    batch_size = _batch_size(batch_size, devices.size)
    description = _plan(source, described, module, variables)
    with Staging.locked(target) as staging:
        check_target(target, force)  # Again: a killed command may have left it aside.
        missing = staging.begin(description)
        if missing:
            part = _Missing(source, list(missing.values()))
            loader = evaluation_batches(part, batch_size=batch_size, workers=workers)
            encode = make_encode(module, variables, devices, precision)
            with contextlib.closing(loader), _progress(len(source), len(part)) as bar:
                records = _records(loader, encode, description, bar)
                for shard, examples in missing.items():
                    with atomic_path(staging.codes / shard) as path:
                        write_shard(path, itertools.islice(records, len(examples)))
        check_target(target, force)  # Encoding takes long.
        staging.publish()
    return description


def check_target(target: str | Path, force: bool) -> None:
    """Raises FileExistsError unless codes may be written to `target`."""
    target = Path(target)
    if not target.exists():
        return
    if not force:
        raise FileExistsError(f"{target}: exists; pass --force to replace the codes in it")
    if not (target / DESCRIPTION_FILE).is_file():
        raise FileExistsError(
            f"{target}: exists and holds no codes (no {DESCRIPTION_FILE}); --force replaces only "
            "codes, so name another folder"
        )


def make_encode(
    module: Autoencoder, variables: Any, mesh: jax.sharding.Mesh, precision: str = "default"
) -> Encode:
    """The compiled function images -> codes [b, 2, n], as they are and mirrored, over the mesh.

    It returns before the devices have finished; b must be a multiple of their number.
    """

    def encode(params, images):
        real = from_uint8(images)
        # Beside each other and not one behind the other, so that no picture changes its device.
        both = jnp.stack([real, real[:, :, ::-1]], axis=1)
        quantized = module.apply(
            {"params": params}, both.reshape(-1, *real.shape[1:]), method="encode"
        )
        return quantized.indices.reshape(real.shape[0], 2, -1)

    batch = parallel.batch_sharding(mesh)
    encode = with_precision(precision, encode)
    compiled = jax.jit(encode, in_shardings=(parallel.replicated(mesh), batch), out_shardings=batch)
    params = {name: variables["params"][name] for name in ("encoder", "quantize")}
    params = jax.device_put(params, parallel.replicated(mesh))
    return lambda images: compiled(params, images)


class _Missing:
    """The examples of some shards, in a row, as a source; all but the last have the same number."""

    def __init__(self, source: Source, shards: Sequence[range]):
        self._source, self._shards = source, tuple(shards)

    def __len__(self) -> int:
        return sum(map(len, self._shards))

    def __getitem__(self, index: int) -> dict[str, Any]:
        shard, place = divmod(index, len(self._shards[0]))
        return self._source[self._shards[shard][place]]


def _encoded(
    batches: Iterable[dict[str, np.ndarray]], encode: Encode
) -> Iterator[tuple[str, Int32[np.ndarray, "2 n"]]]:
    waiting = None
    for batch in itertools.chain(batches, [None]):
        # The devices work on this batch while the host writes the last and reads the next.
        under_way = None if batch is None else (batch["name"], encode(batch["image"]))
        if waiting is not None:
            names, codes = waiting
            yield from zip(map(str, names), np.asarray(codes), strict=True)
        waiting = under_way


def _records(
    batches: Iterable[dict[str, np.ndarray]],
    encode: Encode,
    description: Description,
    bar: tqdm.tqdm,
) -> Iterator[bytes]:
    for name, codes in _encoded(batches, encode):
        bar.update()
        yield description.pack(codes, name)


def _progress(number: int, missing: int) -> tqdm.tqdm:
    options = {"total": number, "initial": number - missing, "dynamic_ncols": True}
    return tqdm.tqdm(desc="encode", unit="image", **options)


def _batch_size(given: int | None, devices: int) -> int:
    size = _PER_DEVICE * devices if given is None else given
    if size < 1 or size % devices:
        raise ValueError(
            f"batch_size={size} does not divide over {devices} devices; give a multiple of them, "
            "or take fewer with --mesh"
        )
    return size


def _plan(source: Source, described: str, module: Autoencoder, variables: Any) -> Description:
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
        shard_records=records_per_shard(len(source)),
    )


def _data_settings(
    run: ml_collections.ConfigDict | None, given: dict[str, Any]
) -> ml_collections.ConfigDict:
    if run is None and given["path"] is None:
        raise ValueError("a model file does not say what it was trained on: give --data SOURCE")
    settings = {**DATA_DEFAULTS, **({} if run is None else run.data.to_dict())}
    settings |= {name: value for name, value in given.items() if value is not None}
    return ml_collections.ConfigDict(settings | {"cache": False})


def _describe(settings: ml_collections.ConfigDict) -> str:
    path = settings.get("path")
    return f"{path}, heldout_fraction={settings.heldout_fraction}" if path else "synthetic faces"
