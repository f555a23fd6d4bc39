"""One process of several: trains the three stages in a row.

python tests/train/worker.py ROOT MESH COORDINATOR PROCESSES PROCESS
"""

import sys
from pathlib import Path

from linear import linear_config, make_linear

from codeformer_jax.train import hosts, loop
from configs import demo


def main(root, mesh, coordinator, processes, process):
    hosts.initialize(coordinator, int(processes), int(process))
    try:
        hosts.check_same(seed="0", workdir=process)
    except ValueError as error:
        print(error)
    make_linear()
    previous = None
    for stage in demo.STAGES:
        loop.train(linear_config(stage, previous, mesh), Path(root, stage))
        previous = str(Path(root, stage))


if __name__ == "__main__":
    main(*sys.argv[1:])
