"""Shards built and rewritten by processes of this machine, with a progress bar."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, synchronize
from typing import Any

from tqdm import tqdm

from codeformer_jax.prepare.build_plan import Plan
from codeformer_jax.prepare.shards import build_shard
from codeformer_jax.prepare.staging import Staging
from codeformer_jax.system.workers import usable_cores

_POLL_SECONDS = 0.5

# Of a worker process: how it tells of a tick, and hears that it must stop.
_count: Any = None
_stop: synchronize.Event | None = None


class _Stopped(Exception):
    """The parent wants no more."""


def build_shards(staging: Staging, plan: Plan, workers: int | None) -> None:
    """Builds those shards of the plan that are not done.

    Arguments and errors as of `run`.
    """
    wanted = [shard for shard in range(len(plan.sizes)) if not staging.notes(shard).exists()]
    done = sum(plan.sizes) - sum(plan.sizes[shard] for shard in wanted)
    root = os.fspath(staging.root)
    # `disable=None`: no bar where nobody looks.
    with tqdm(total=sum(plan.sizes), initial=done, unit=" images", disable=None) as bar:
        run(build_shard, [(root, shard) for shard in wanted], workers, bar)


def run(function: Callable, jobs: Sequence[tuple], workers: int | None, bar: tqdm) -> None:
    """Calls `function(*job, tick)` for every job; each `tick()` in it moves the bar by one.

    `workers` processes are spawned; 0 works in this one, None takes all cores.

    Raises:
      OSError: what failed first in any of them; the others are stopped at their next tick.
      ChildProcessError: a process was killed.
    """
    if workers is None:
        workers = usable_cores()
    if workers == 0:
        for job in jobs:
            function(*job, bar.update)
        return
    start = bar.n
    for count in _in_processes(function, jobs, min(workers, len(jobs))):
        bar.update(start + count - bar.n)


def _in_processes(function: Callable, jobs: Sequence[tuple], workers: int) -> Iterator[int]:
    """Yields, now and then, how many ticks there were."""
    if not jobs:
        return
    context = multiprocessing.get_context("spawn")
    count, stop = context.Value("Q", 0), context.Event()
    pool = futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start, initargs=(count, stop)
    )
    try:
        # Ctrl-C goes to all processes of a terminal. What is blocked here stays blocked in those
        # that are spawned meanwhile: only the parent hears it, and tells them.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            running = {pool.submit(_work, function, job) for job in jobs}
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        while running:
            finished, running = futures.wait(
                running, _POLL_SECONDS, return_when=futures.FIRST_COMPLETED
            )
            for future in finished:
                future.result()
            yield count.value
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a worker process was killed, most likely because memory ran out; use fewer --workers"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _start(count: Any, stop: synchronize.Event) -> None:
    global _count, _stop  # An initializer has no other way to hand things on.
    _count, _stop = count, stop
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _work(function: Callable, job: tuple) -> None:
    function(*job, _tick)


def _tick() -> None:
    with _count.get_lock():
        _count.value += 1
    if _stop.is_set():
        raise _Stopped
