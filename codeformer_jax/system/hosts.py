"""Many processes as one run: how they find each other, and what they have to agree on."""

import hashlib
import importlib.util
import json
import os
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from codeformer_jax.system import parallel

# Steps between a flag and the answer to it. Two keep the device busy: the answer to the step before
# last is there when the next step is handed over.
LAG = 2


def initialize(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Joins the processes of a run: by the arguments, by the environment, or not at all.

    Without arguments `jax.distributed.initialize()` reads the environment, where that tells of
    several processes: SLURM, Open MPI, an indexed Kubernetes job, a TPU pod. To be called before
    anything is computed.

    Args:
        coordinator: HOST:PORT of process 0; any free port.
        processes: how many; 1 is a run by itself, whatever the environment says.
        process: number of this one, from 0.

    Raises:
        ValueError: for some of the arguments without the others, or an environment that JAX cannot
            read.
    """
    if processes == 1 and coordinator is None and process in (None, 0):
        return
    if (coordinator, processes, process) != (None, None, None):
        if None in (coordinator, processes, process) or not 0 <= process < processes:
            raise ValueError(
                f"got --coordinator={coordinator} --processes={processes} --process={process}; "
                "expected all three, e.g. --coordinator=10.0.0.1:1234 --processes=2 --process=0, "
                "with --process from 0 to --processes - 1"
            )
        # Else SLURM's variables would restrict this process to one device.
        jax.distributed.initialize(
            coordinator, processes, process, cluster_detection_method="deactivate"
        )
        return
    found = _environment()
    if found is None:
        return
    try:
        jax.distributed.initialize()
    except ValueError as error:
        if found == "TPU":
            return  # libtpu on a machine without one.
        raise ValueError(
            f"{found} started several processes, but JAX cannot tell how they find each other "
            f"({error}). Pass --coordinator=HOST:PORT --processes=N --process=I, or --processes=1 "
            "for a run by itself"
        ) from error


def _environment() -> str | None:
    """What started several processes, by its variables; a TPU may be one host of many."""
    variables = os.environ
    if "JAX_COORDINATOR_ADDRESS" in variables:
        return "JAX_COORDINATOR_ADDRESS"
    # A single task is left alone: JAX would give it one device of the machine.
    if "SLURM_STEP_NODELIST" in variables and int(variables.get("SLURM_NTASKS", 1)) > 1:
        return "SLURM"
    if int(variables.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return "Open MPI"
    # Before Kubernetes, which also starts TPU pods: there JAX asks the TPU's own variables.
    if "TPU_WORKER_HOSTNAMES" in variables:
        return "TPU"
    if "JOB_COMPLETION_INDEX" in variables:
        return "Kubernetes"
    # Installed alone, as for a plan, it says nothing: JAX would look at SLURM's variables again.
    by_itself = variables.keys() & {"SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE"}
    return "TPU" if importlib.util.find_spec("libtpu") and not by_itself else None


def is_main() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def check_same(**values: str) -> None:
    """Refuses processes that would not run the same program on the same data.

    Raises:
        ValueError: on every process, naming the values that differ.
    """
    if jax.process_count() == 1:
        return
    digests = [hashlib.sha256(text.encode()).digest() for text in values.values()]
    found = multihost_utils.process_allgather(
        np.stack([np.frombuffer(digest, np.uint8) for digest in digests])
    )
    differing = (found != found[:1]).any(axis=2)
    if differing.any():
        names = [name for name, each in zip(values, differing.any(axis=0), strict=True) if each]
        others = np.flatnonzero(differing.any(axis=1)).tolist()
        raise ValueError(
            f"processes {others} differ from process 0 in: {', '.join(names)}. Give all the same "
            "flags, and a --workdir and data on a file system that all of them share"
        )


def from_main(make: Callable[[], Any]) -> Any:
    """What `make` returns on the first process, given to all; something that JSON can hold.

    For decisions about files, which processes might see at different moments.
    """
    if jax.process_count() == 1:
        return make()
    text = json.dumps(make()).encode() if is_main() else b""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(length, np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes())


def largest(*values: int) -> list[int]:
    """The largest of each value over all processes, which wait for each other."""
    if jax.process_count() == 1:
        return list(values)
    return multihost_utils.process_allgather(np.array(values, np.int32)).max(axis=0).tolist()


def leave() -> None:
    """Takes leave of the other processes, as Python's way out does; without it they miss this one.

    To be called by all where the program ends in another way. Nothing can be computed afterwards.
    """
    if jax.process_count() > 1:
        jax.distributed.shutdown()


def wait_for_all(what: str) -> None:
    """Returns once every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


class Agreement:
    """The largest flag that any process has raised: the same on all of them at the same step.

    All processes call it once per step. A process by itself gets its own flag back at once. Of many
    each call starts a maximum over the devices of `mesh` and returns that of `LAG` calls before, so
    that nobody waits for the step under way.
    """

    def __init__(self, mesh: Mesh):
        self._mesh = mesh
        self._pending: deque[jax.Array] = deque()
        self._maximum = jax.jit(jnp.max, out_shardings=parallel.replicated(mesh))

    def __call__(self, flag: int) -> int:
        if jax.process_count() == 1:
            return flag
        flags = np.full(len(self._mesh.local_devices), flag, np.int32)
        self._pending.append(self._maximum(parallel.put_batch(self._mesh, flags)))
        return int(self._pending.popleft()) if len(self._pending) > LAG else 0
