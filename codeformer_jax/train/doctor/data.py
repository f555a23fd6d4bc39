"""Checks of a run's data: whether they are read as fast as the steps use them."""

import contextlib
import json
import shutil
import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from codeformer_jax.checkpoints.workdir import saved_steps
from codeformer_jax.data.pipeline import batches
from codeformer_jax.data.sources import open_source
from codeformer_jax.data.views import Jitter, oversampled
from codeformer_jax.system import hosts, parallel
from codeformer_jax.system.keys import make_key
from codeformer_jax.system.storage import is_remote, to_path
from codeformer_jax.tasks import make_task
from codeformer_jax.train.doctor.finding import Finding, Report, limited
from codeformer_jax.train.doctor.workdir import existing
from codeformer_jax.train.plan import abstract_arguments, distinct_phases
from codeformer_jax.train.step import make_step

# Checkpoints in a workdir at once: the latest two, the best and one that is being written.
CHECKPOINTS = 4
REPEATS = 5


def check_data(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    workdir: str | None,
    seconds: float,
    report: Report,
) -> list[Finding]:
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
    own: tuple[float, str] = (0.0, "")
    with limited("reading of data alone", 0.0):
        try:
            own = (reading_rate(config, seconds), "")
        except (OSError, ValueError) as error:
            own = (0.0, f"{error}")
    answers = hosts.gather("speed of the data", json.dumps(own))
    rates, faults = zip(*map(json.loads, answers), strict=True)
    if fault := next(filter(None, faults), None):
        return [Finding(f"the data cannot be read: {fault}", "correct data.path")]
    read = min(rates)
    of = " with the slowest process" if jax.process_count() > 1 else ""
    report(f"data       {read:.1f} images/s alone{of}, data.workers={config.data.workers}")
    report("step       compiling ...")
    with limited("compilation and steps", 0.0):
        own, state = step_seconds(config, mesh)
    step = json.loads(hosts.gather("time of a step", json.dumps(own))[0])
    report(f"step       {step:.3f} s for {batch} images: {batch / step:.1f} images/s")
    found = []
    if read < batch / step:
        found.append(
            Finding(
                f"data is read at {read:.1f} images/s{of}; the steps need {batch / step:.1f}",
                "raise --config.data.workers, prepare the data at the training size "
                "(codeformer-jax prepare), or use --config.data.cache=True for data that fit in "
                "memory",
            )
        )
    if workdir is not None:
        with limited("free space of the workdir"):
            found += _check_room(workdir, state, report)
    return found


def _check_room(workdir: str, state: int, report: Report) -> list[Finding]:
    """Compares the free space of a disk with the checkpoints of a state. A bucket is never full."""
    report(f"checkpoint {state / 1e9:.2f} GB")
    folder = to_path(workdir, "workdir")
    if is_remote(folder):
        return []
    free = shutil.disk_usage(existing(folder)).free
    missing = max(1, CHECKPOINTS - len(saved_steps(folder)))
    if free >= missing * state:
        return []
    return [
        Finding(
            f"workdir={workdir} has {free / 1e9:.1f} GB free, and further checkpoints (up to "
            f"{missing}) take {missing * state / 1e9:.1f} GB",
            "make room, or give a --workdir on another disk",
        )
    ]


def reading_rate(config: ml_collections.ConfigDict, seconds: float) -> float:
    """Returns the images per second that the data pipeline reads when nothing else runs.

    Of several processes each reads its rows of a batch. The rate is that of a run whose processes
    are all as fast as this one.

    Args:
        config: config of a run.
        seconds: time to read for, after a quarter of it in which buffers fill.
    """
    data, source = config.data, open_source(oversampled(config.data), "train")
    jitter = Jitter.from_config(data)
    given = {"batch_size": data.batch_size, "seed": config.seed, "jitter": jitter}
    given |= {"host": jax.process_index(), "hosts": jax.process_count()}
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
