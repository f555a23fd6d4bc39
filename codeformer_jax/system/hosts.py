"""Several processes as one run: how they find each other and agree."""

import hashlib
import importlib.util
import json
import os
import signal
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from codeformer_jax.system import parallel

# Steps between a flag and its answer. With two, the answer is there before the next step starts, so
# the device stays busy.
LAG = 2


def initialize(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Joins the processes of a run. Call it before anything is computed.

    Without arguments it looks at the environment. Where SLURM, Open MPI, an indexed Kubernetes job
    or a TPU pod started several processes, `jax.distributed.initialize()` reads the rest from it.
    Otherwise the process trains alone.

    Args:
        coordinator: HOST:PORT of process 0, with any free port.
        processes: number of processes; 1 trains alone, whatever the environment says.
        process: number of this process, from 0.

    Raises:
        ValueError: if only some arguments are given, or JAX cannot read the environment.
    """
    if processes == 1 and coordinator is None and process in (None, 0):
        return
    handler = signal.getsignal(signal.SIGTERM)
    if (coordinator, processes, process) != (None, None, None):
        if None in (coordinator, processes, process) or not 0 <= process < processes:
            raise ValueError(
                f"got --coordinator={coordinator} --processes={processes} --process={process}; "
                "expected all three, e.g. --coordinator=10.0.0.1:1234 --processes=2 --process=0, "
                "with --process from 0 to --processes - 1"
            )
        # Without this SLURM's variables would restrict the process to one device.
        detection = {"cluster_detection_method": "deactivate"}
        jax.distributed.initialize(coordinator, processes, process, **detection)
    elif found := _environment():
        try:
            jax.distributed.initialize()
        except ValueError as error:
            if found == "TPU":
                return  # libtpu on a machine without a TPU.
            raise ValueError(
                f"{found} started several processes, but JAX cannot tell how they find each other "
                f"({error}). Pass --coordinator=HOST:PORT --processes=N --process=I, or "
                "--processes=1 to train alone"
            ) from error
    signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)  # JAX has installed its own.


def _environment() -> str | None:
    """Returns what started several processes, or None. A TPU may be one host of many."""
    variables = os.environ
    if "JAX_COORDINATOR_ADDRESS" in variables:
        return "JAX_COORDINATOR_ADDRESS"
    # JAX would give a single task only one device of the machine.
    if "SLURM_STEP_NODELIST" in variables and int(variables.get("SLURM_NTASKS", 1)) > 1:
        return "SLURM"
    if int(variables.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return "Open MPI"
    # Kubernetes also starts TPU pods, where JAX reads the TPU's own variables: TPU comes first.
    if "TPU_WORKER_HOSTNAMES" in variables:
        return "TPU"
    if "JOB_COMPLETION_INDEX" in variables:
        return "Kubernetes"
    # libtpu may be installed for `compile_only`; JAX would then read SLURM's variables again.
    by_itself = variables.keys() & {"SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE"}
    return "TPU" if importlib.util.find_spec("libtpu") and not by_itself else None


def is_main() -> bool:
    """Returns whether this process writes the shared files."""
    return jax.process_index() == 0


def check_same(**values: str) -> None:
    """Checks that all processes run the same program on the same data.

    Args:
        values: what must be equal, by name.

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
    """Calls `make` on the first process and gives its result to all.

    Decisions about files need this: processes may see a change at different moments.

    Args:
        make: returns something that JSON can hold.
    """
    if jax.process_count() == 1:
        return make()
    text = json.dumps(make()).encode() if is_main() else b""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(length, np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes())


def wait_for_all(name: str) -> None:
    """Waits until every process has called it with this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


class Agreement:
    """The largest flag that any process has raised, the same on all processes at the same step.

    Every process calls it once per step. A single process gets its own flag back. With several,
    each call starts a maximum over the devices of `mesh` and returns the result of `LAG` calls
    before, so that no process waits for the current step.
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
