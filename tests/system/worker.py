"""One process of several: trains every task, then runs that diverge and are stopped.

python tests/system/worker.py ROOT MESH COORDINATOR PROCESSES PROCESS
"""

import contextlib
import os
import signal
import sys
from pathlib import Path

from linear import linear_config, make_linear, train_all

from codeformer_jax.system import hosts
from codeformer_jax.train import heldout, loop
from codeformer_jax.train.watch import Diverged


def main(root, mesh, coordinator, processes, process):
    hosts.initialize(coordinator, int(processes), int(process))
    try:
        hosts.check_same(seed="0", workdir=process)
    except ValueError as error:
        print(error)
    make_linear()
    train_all(root, mesh)
    try:
        loop.train(diverging_config(mesh), Path(root, "diverged"))
    except Diverged as error:
        print(error)
    with stopped_between_batches(at=int(process) == 1):
        loop.train(evaluated_config(mesh), Path(root, "stopped"))


def diverging_config(mesh):
    """Of stage I without its GAN: after the first step nothing is finite any more."""
    config = linear_config("vqgan", mesh=mesh).unlock()
    config.optimizer.update(learning_rate=1e30, final_learning_rate=1e30)
    config.loss.gan_start = 10**6
    config.max_skipped = 2
    return config.lock()


def evaluated_config(mesh):
    """Of stage I without its GAN, evaluated in two batches."""
    config = linear_config("vqgan", mesh=mesh).unlock()
    config.loss.gan_start = 10**6
    config.data.heldout_length = 16
    config.eval.update(batch_size=8, batches=2)
    return config.lock()


@contextlib.contextmanager
def stopped_between_batches(at):
    """Here SIGTERM arrives after the first batch of an evaluation, on one process alone."""
    original = heldout.Heldout.batches

    def batches(images):
        for batch in original(images):
            yield batch
            if at:
                os.kill(os.getpid(), signal.SIGTERM)

    heldout.Heldout.batches = batches
    try:
        yield
    finally:
        heldout.Heldout.batches = original


if __name__ == "__main__":
    main(*sys.argv[1:])
