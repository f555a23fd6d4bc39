"""One process of several that sum numbers until process CULPRIT does what FAULT says at step 2.

python tests/system/faulty.py FAULT CULPRIT SILENCE FLAG COORDINATOR PROCESSES PROCESS

The process touches FLAG right before the fault. SILENCE is a number of seconds.
"""

import faulthandler
import os
import signal
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from codeformer_jax.system import hosts, parallel

LIMIT = 20.0
STEPS = 5


def main(fault, culprit, silence, flag, coordinator, processes, process):
    faulthandler.enable()  # As absl's `app.run` does in train.py.
    silence = float(silence)
    limits = {"start_timeout": 15.0 if fault == "missing" else 120.0, "peer_timeout": silence}
    hosts.initialize(coordinator, int(processes), int(process), **limits)
    limit = LIMIT if fault == "reading" else 0.0
    with hosts.together(), hosts.limited(limit):
        bad = process == culprit
        if bad and fault == "config":
            Path(flag).touch()
        hosts.check_same(config=str(bad and fault == "config"), data="faces")
        mesh = parallel.make_mesh("data:-1")
        total = jax.jit(jnp.sum, out_shardings=parallel.replicated(mesh))
        for step in range(STEPS):
            hosts.at(f"reading of batch {step}")
            if bad and step == 2:
                Path(flag).touch()
                misbehave(fault)
            rows = np.ones(len(mesh.local_devices), np.float32)
            hosts.at(f"step {step}")
            total(parallel.put_batch(mesh, rows)).block_until_ready()
        if bad and fault == "late":
            time.sleep(2 * silence)
    print("all steps done")


def misbehave(fault):
    if fault == "data":
        raise OSError("the disk of this process is gone")
    if fault == "collective":
        raise ValueError("UNKNOWN: Gloo all-reduce failed")
    if fault == "reading":
        time.sleep(1000)
    if fault in ("SIGKILL", "SIGSTOP"):
        os.kill(os.getpid(), getattr(signal, fault))


if __name__ == "__main__":
    main(*sys.argv[1:])
