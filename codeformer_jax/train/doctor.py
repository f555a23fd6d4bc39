"""Checks of a machine before a run: devices, links between them, the workdir's disk, the data."""

import contextlib
import faulthandler
import importlib.metadata
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from codeformer_jax import __version__
from codeformer_jax.checkpoints.workdir import saved_steps
from codeformer_jax.data.pipeline import batches
from codeformer_jax.data.sources import open_source
from codeformer_jax.data.views import Jitter, oversampled
from codeformer_jax.system import parallel, storage
from codeformer_jax.system.atomic import atomic_path
from codeformer_jax.system.keys import make_key
from codeformer_jax.system.workers import exclusive
from codeformer_jax.tasks import make_task
from codeformer_jax.train.plan import abstract_arguments, distinct_phases
from codeformer_jax.train.step import make_step

PACKAGES = ("jax", "jaxlib", "flax", "orbax-checkpoint")
# Device files of accelerators, and the extra of JAX that computes on them.
ACCELERATORS = {"/dev/nvidia0": "cuda12", "/dev/accel0": "tpu"}
# Checkpoints in a workdir at once: the latest two, the best and one that is being written.
CHECKPOINTS = 4
# Seconds after which a check that hangs prints its stack and ends the process.
LIMIT = 120.0
# Bytes per second of a disk that is slow, but does not hang.
SLOW_DISK = 10e6
REPEATS = 5
Report = Callable[[str], None]


@dataclass(frozen=True)
class Finding:
    """Something wrong.

    Attributes:
        what: what was expected, and what was found.
        remedy: what to do.
    """

    what: str
    remedy: str


def _print(line: str) -> None:
    print(line, flush=True)  # `limited` ends the process without a flush.


def examine(
    config: ml_collections.ConfigDict | None,
    mesh: str | None = None,
    workdir: str | None = None,
    *,
    megabytes: int = 64,
    seconds: float = 5.0,
    report: Report = _print,
) -> list[Finding]:
    """Runs all checks that the arguments allow.

    Devices, links or a disk that hang end the process with its stacks.

    Args:
        config: config of a run, whose data and steps are timed.
        mesh: a mesh like 'data:4,fsdp:2'; default: that of `config`, or all devices.
        workdir: folder to write to, which need not exist. It is left as it is.
        megabytes: size of what is reduced over the devices and written to the disk.
        seconds: time for which data are read.
        report: takes each line of the report as soon as it is known.

    Returns:
        What is wrong.

    Raises:
        ValueError: if `mesh` does not fit the devices, or settings of `config` are out of range.
    """
    description = mesh or (config.mesh if config is not None else "data:-1")
    found = list(check_devices(report))
    built = parallel.make_mesh(description)
    sizes = ",".join(f"{name}:{size}" for name, size in built.shape.items())
    report(f"mesh       {sizes}")
    found += check_links(built, megabytes << 20, report)
    if workdir is not None:
        found += check_workdir(Path(workdir), megabytes << 20, report)
    if config is not None:
        found += check_data(config, built, workdir, seconds, report)
    return found


def check_devices(report: Report) -> Iterator[Finding]:
    """Reports versions and devices. Finds an accelerator that JAX does not use."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    report(f"versions   codeformer_jax {__version__}, Python {platform.python_version()}")
    report(f"           {', '.join(versions)}")
    report("devices    starting ...")
    with limited(LIMIT):
        devices = jax.devices()
    kind = devices[0].device_kind
    report(f"devices    {len(devices)} x {kind}, {jax.process_count()} process")
    there = next((path for path in ACCELERATORS if os.path.exists(path)), None)
    if devices[0].platform == "cpu" and there:
        yield Finding(
            f"this machine has an accelerator ({there}), and JAX computes on the CPU",
            f"pip install 'jax[{ACCELERATORS[there]}]', and unset JAX_PLATFORMS",
        )


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Prints the stacks and ends the process with code 1 if the block takes longer."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def check_links(mesh: Mesh, size: int, report: Report) -> Iterator[Finding]:
    """All-reduces an array over each axis of the mesh. Reports times and finds wrong sums.

    The bandwidth is that of each device's link in a ring: 2 (n - 1) / n times the array.

    Args:
        mesh: the devices.
        size: bytes of the array.
        report: takes lines.
    """
    for axis, devices in mesh.shape.items():
        if devices == 1:
            continue
        report(f"links      all-reduce over {axis}: {devices} devices ...")
        with limited(LIMIT):
            seconds, right = all_reduce(mesh, axis, size)
        rate = 2 * (devices - 1) / devices * size / seconds / 1e9
        report(
            f"           {seconds * 1e3:.2f} ms for {size >> 20} MiB, {rate:.2f} GB/s per device"
        )
        if not right:
            yield Finding(
                f"the sum over the {devices} devices of mesh axis {axis} is wrong",
                "restart the machine or slice; if it stays wrong, leave it out and report it",
            )


def all_reduce(mesh: Mesh, axis: str, size: int) -> tuple[float, bool]:
    """Adds up float32 arrays, one of each device along an axis.

    Args:
        mesh: the devices.
        axis: name of the axis.
        size: bytes of each array.

    Returns:
        The median seconds, and whether every device has the right sum.
    """
    count, length = mesh.shape[axis], max(1, size // 4)
    rows = NamedSharding(mesh, PartitionSpec(axis))

    def values():
        return jnp.broadcast_to(jnp.arange(1.0, count + 1)[:, None], (count, length))

    add_up = jax.jit(partial(jnp.sum, axis=0), out_shardings=parallel.replicated(mesh))
    given = jax.jit(values, out_shardings=rows)()
    total = jax.block_until_ready(add_up(given))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        total = jax.block_until_ready(add_up(given))
        times.append(time.perf_counter() - start)
    wanted = count * (count + 1) / 2
    right = all(bool(np.all(np.asarray(x.data) == wanted)) for x in total.addressable_shards)
    return statistics.median(times), right


def check_workdir(workdir: Path, size: int, report: Report) -> Iterator[Finding]:
    """Writes, replaces, reads and locks files beside those of a run. Reports the throughput.

    Args:
        workdir: the folder; if it does not exist, the nearest parent is used.
        size: bytes to write. At `SLOW_DISK` bytes per second the disk does not count as hanging.
        report: takes lines.
    """
    storage.check_workdir(workdir)
    folder = _existing(workdir)
    if not folder.is_dir():
        yield Finding(f"workdir={workdir}: {folder} is not a folder", "give another --workdir")
        return
    other = "give a --workdir on another disk"
    report(f"workdir    writing {size >> 20} MiB to {folder} ...")
    try:
        with (
            limited(LIMIT + size / SLOW_DISK),
            tempfile.TemporaryDirectory(dir=folder, prefix=".doctor.") as inside,
        ):
            write, read, same = _write_and_read(Path(inside), size)
            locks = _locks(Path(inside))
    except OSError as error:
        yield Finding(f"workdir={workdir} cannot be written: {error}", f"make room, or {other}")
        return
    free = shutil.disk_usage(folder).free
    report(
        f"           write {size / write / 1e6:.0f} MB/s, read {size / read / 1e6:.0f} MB/s, "
        f"{free / 1e9:.1f} GB free"
    )
    if not same:
        yield Finding(f"{folder}: a replaced file does not have the new content", other)
    if not locks:
        yield Finding(
            f"{folder}: two processes can lock the same file",
            f"start only one run at a time in a workdir, or {other}",
        )


def _existing(folder: Path) -> Path:
    """Returns the path, or its nearest parent that exists."""
    return next(x for x in (folder, *folder.absolute().parents) if os.path.exists(x))


def _write_and_read(folder: Path, size: int) -> tuple[float, float, bool]:
    """Returns the seconds of writing and reading, and whether the new content was read."""
    path, content = folder / "file", os.urandom(size)
    path.write_bytes(b"older")
    start = time.perf_counter()
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    written = time.perf_counter() - start
    with path.open("rb") as file:
        if hasattr(os, "posix_fadvise"):  # Otherwise it is read from memory.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        found = file.read()
    read = time.perf_counter() - start
    return written, read, found == content and len(list(folder.iterdir())) == 1


def _locks(folder: Path) -> bool:
    with exclusive(folder / "lock"):
        try:
            with exclusive(folder / "lock"):
                return False
        except BlockingIOError:
            return True


def check_data(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    workdir: str | None,
    seconds: float,
    report: Report,
) -> Iterator[Finding]:
    """Times the data alone and the compiled steps. Finds data that are slower than the steps.

    Args:
        config: config of a run. Its networks have made-up weights, so that no file is needed.
        mesh: the devices.
        workdir: where checkpoints will go, or None.
        seconds: time for which data are read.
        report: takes lines.
    """
    parallel.check_batch(mesh, config)
    batch = config.data.batch_size
    read = reading_rate(config, seconds)
    report(f"data       {read:.1f} images/s alone, data.workers={config.data.workers}")
    report("step       compiling ...")
    step, state = step_seconds(config, mesh)
    report(f"step       {step:.3f} s for {batch} images: {batch / step:.1f} images/s")
    if read < batch / step:
        yield Finding(
            f"data is read at {read:.1f} images/s; the steps need {batch / step:.1f}",
            "raise --config.data.workers, prepare the data at the training size "
            "(codeformer-jax prepare), or use --config.data.cache=True for data that fit in memory",
        )
    if workdir is None:
        return
    free = shutil.disk_usage(_existing(Path(workdir))).free
    report(f"checkpoint {state / 1e9:.2f} GB")
    missing = max(1, CHECKPOINTS - len(saved_steps(Path(workdir))))
    if free < missing * state:
        yield Finding(
            f"workdir={workdir} has {free / 1e9:.1f} GB free, and further checkpoints (up to "
            f"{missing}) take {missing * state / 1e9:.1f} GB",
            "make room, or give a --workdir on another disk",
        )


def reading_rate(config: ml_collections.ConfigDict, seconds: float) -> float:
    """Returns the images per second that the data pipeline reads when nothing else runs.

    Args:
        config: config of a run.
        seconds: time to read for. A quarter of it comes before, while buffers fill.
    """
    data, source = config.data, open_source(oversampled(config.data), "train")
    jitter = Jitter.from_config(data)
    given = {"batch_size": data.batch_size, "seed": config.seed, "jitter": jitter}
    with contextlib.closing(batches(source, workers=data.workers, **given)) as loader:
        next(loader)  # Workers start.
        _read_for(loader, seconds / 4)
        count, taken = _read_for(loader, seconds)
    return count * data.batch_size / taken


def _read_for(loader: Iterator[Any], seconds: float) -> tuple[int, float]:
    """Reads one batch or more. Returns their number and the seconds that they took."""
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < seconds:
        next(loader)
        count += 1
    return count, time.perf_counter() - start


def step_seconds(config: ml_collections.ConfigDict, mesh: Mesh) -> tuple[float, int]:
    """Compiles and times every kind of step of a run, with constants for weights and images.

    Args:
        config: config of a run.
        mesh: the devices.

    Returns:
        The mean seconds over the run's steps, and the bytes of the state.
    """
    task = make_task(config)
    arguments = abstract_arguments(task, config, mesh)
    shardings = jax.tree.map(lambda x: x.sharding, arguments[:3])
    step = make_step(task, mesh, shardings[0])
    make = jax.jit(lambda: jax.tree.map(_constant, arguments[:3]), out_shardings=shardings)
    state, frozen, inputs = make()
    key = jax.jit(partial(make_key, config.seed), out_shardings=parallel.replicated(mesh))()
    total = steps = 0
    for _, count, phase in distinct_phases(task, config.steps):
        times = []
        for _ in range(1 + REPEATS):
            start = time.perf_counter()
            state, _metrics = jax.block_until_ready(step(state, frozen, inputs, key, phase))
            times.append(time.perf_counter() - start)
        total += count * statistics.median(times[1:])
        steps += count
    return total / steps, sum(x.nbytes for x in jax.tree.leaves(state))


def _constant(x: jax.ShapeDtypeStruct) -> jax.Array:
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    return jnp.full(x.shape, 0.01 if floating else 0, x.dtype)
