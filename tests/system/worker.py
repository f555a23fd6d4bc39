"""One process of several: trains every task, then a run that diverges.

python tests/system/worker.py ROOT MESH COORDINATOR PROCESSES PROCESS
"""

import sys
from pathlib import Path

from linear import linear_config, make_linear, train_all

from codeformer_jax.system import hosts
from codeformer_jax.train import loop
from codeformer_jax.train.watch import Diverged


def main(root, mesh, coordinator, processes, process):
    hosts.initialize(coordinator, int(processes), int(process))
    with hosts.together():
        train(root, mesh, process)


def train(root, mesh, process):
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


def diverging_config(mesh):
    """Returns a config whose second step is not finite."""
    config = linear_config("vqvae", mesh=mesh).unlock()
    config.optimizer.update(learning_rate=1e30, final_learning_rate=1e30)
    config.max_skipped = 2
    return config.lock()


if __name__ == "__main__":
    main(*sys.argv[1:])
