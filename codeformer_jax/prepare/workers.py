"""Jobs in processes of this machine."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool

from tqdm import tqdm

from codeformer_jax.system.workers import end_with_parent, usable_cores


def run(function: Callable, jobs: Sequence[tuple[int, tuple]], workers: int | None, bar: tqdm):
    """Calls `function(*arguments)` for every job.

    Args:
        function: what to call; it and its arguments are pickled.
        jobs: for each call the number of images, by which it moves the bar, and the arguments.
        workers: processes; 0 works in this one, None takes all cores.
        bar: the progress bar.

    Raises:
        ChildProcessError: a process was killed.
        Others: what a job raised first; the other processes are ended.
    """
    workers = usable_cores() if workers is None else workers
    if not jobs or workers == 0:
        for images, arguments in jobs:
            function(*arguments)
            bar.update(images)
        return
    others = set(multiprocessing.active_children())
    pool = futures.ProcessPoolExecutor(
        min(workers, len(jobs)), multiprocessing.get_context("spawn"), end_with_parent
    )
    try:
        images = {pool.submit(function, *arguments): count for count, arguments in jobs}
        for future in futures.as_completed(images):
            future.result()
            bar.update(images[future])
    except BaseException as error:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise ChildProcessError(
                "a worker process was killed, most likely because memory ran out; use fewer "
                "--workers"
            ) from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)
