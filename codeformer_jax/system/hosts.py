"""Several processes as one run: how they find each other and agree."""

import contextlib
import hashlib
import importlib.util
import itertools
import json
import math
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from codeformer_jax.system import connect, parallel, peers

# Steps between a flag and its answer. With two, the answer is there before the next step starts, so
# the device stays busy.
LAG = 2
# Seconds that any stage of a training of several processes may take, from a compilation to a wait
# for a peer.
LIMIT = 1800.0
_WAIT = 7 * 24 * 3600 * 1000  # Milliseconds; the watch ends a wait that takes too long.

_watches: list[peers.Watch] = []  # At most one.
_waits = itertools.count()  # The same number on all processes at the same wait.


def initialize(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    start_timeout: float = 300.0,
    peer_timeout: float = peers.SILENCE,
) -> None:
    """Joins the processes of a run. Call it before anything is computed.

    Without arguments it looks at the environment. Where SLURM, Open MPI, an indexed Kubernetes job
    or a TPU pod started several processes, `jax.distributed.initialize()` reads the rest from it.
    Otherwise the process trains alone.

    Args:
        coordinator: HOST:PORT of process 0, with any free port.
        processes: number of processes; 1 trains alone, whatever the environment says.
        process: number of this process, from 0.
        start_timeout: seconds after which a process ends if not all processes have started.
        peer_timeout: seconds after which a process ends if another one gives no sign of life.

    Raises:
        ValueError: if only some arguments are given, a limit is shorter than a second, or JAX
            cannot read the environment.
    """
    if not min(start_timeout, peer_timeout) >= 1:
        raise ValueError("--initialization-timeout and --peer-timeout must be at least 1 second")
    if processes == 1 and coordinator is None and process in (None, 0):
        return
    handler = signal.getsignal(signal.SIGTERM)
    # JAX's own watch names fewer processes, so it must not be the faster one.
    options: dict[str, Any] = {"heartbeat_timeout_seconds": max(100, int(2 * peer_timeout))}
    if (coordinator, processes, process) != (None, None, None):
        if None in (coordinator, processes, process) or not 0 <= process < processes:
            raise ValueError(
                f"got --coordinator={coordinator} --processes={processes} --process={process}; "
                "expected all three, e.g. --coordinator=10.0.0.1:1234 --processes=2 --process=0, "
                "with --process from 0 to --processes - 1"
            )
        # Without this SLURM's variables would restrict the process to one device.
        options["cluster_detection_method"] = "deactivate"
        connect.connect(start_timeout, coordinator, processes, process, **options)
    elif found := _environment():
        try:
            connect.connect(start_timeout, **options)
        except ValueError as error:
            if found == "TPU":
                return  # libtpu on a machine without a TPU.
            raise ValueError(
                f"{found} started several processes, but JAX cannot tell how they find each other "
                f"({error}). Pass --coordinator=HOST:PORT --processes=N --process=I, or "
                "--processes=1 to train alone"
            ) from error
    signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)  # JAX has installed its own.
    if not jax.distributed.is_initialized():
        return
    state = connect.state()
    if state.num_processes > 1:
        own = {"client": state.client, "index": state.process_id, "count": state.num_processes}
        _watches.append(peers.Watch(peer_timeout, **own))


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


def at(stage: str) -> None:
    """Names what this process does from now on, for the line that a hang or an error prints.

    All processes of a run name the same stages in the same order.
    """
    for watch in _watches:
        watch.at(stage)


@contextlib.contextmanager
def limited(seconds: float, setting: str = "train.watchdog") -> Iterator[None]:
    """Ends this process, with its Python stacks, if a stage takes too long inside the block.

    Args:
        seconds: the limit; 0 is none for a single process and `LIMIT` for several.
        setting: what sets the limit, for the message.
    """
    if not _watches and not seconds:
        yield
        return
    own = [] if _watches else [peers.Watch()]
    _watches.extend(own)
    _watches[0].limit, _watches[0].setting = seconds or LIMIT, setting
    try:
        yield
    finally:
        _watches[0].limit = math.inf
        for watch in own:
            watch.close()
            _watches.remove(watch)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Waits for the other processes of a run at the end of the block, or tells them if it raises.

    This process should end after the block. After an error it has a few seconds to do so.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        # All have agreed to end and arrive soon, or a second Ctrl-C has ended this process alone.
        _leave(limit=60.0)
        raise
    except BaseException as error:
        for watch in _watches:
            watch.fail(error)
        raise
    _leave(limit=LIMIT)


def _leave(limit: float) -> None:
    """Ends the watch after the last wait; its threads must not outlive the interpreter."""
    if not _watches:
        return
    _watches[0].limit = limit
    wait_for_all("end")  # JAX's own wait would abort the run after 300 s.
    jax.distributed.shutdown()
    _watches.pop().close()


def check_same(**values: str) -> None:
    """Checks that all processes run the same program on the same data.

    Args:
        values: what must be equal, by name.

    Raises:
        ValueError: on every process, naming the values that differ.
    """
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in values.items()}
    name = f"agreement on {', '.join(values)}"
    first, *others = [json.loads(text) for text in gather(name, json.dumps(digests))]
    differing = [i for i, other in enumerate(others, start=1) if other != first]
    if differing:
        names = [name for name in values if any(o.get(name) != first.get(name) for o in others)]
        raise ValueError(
            f"processes {differing} differ from process 0 in: {', '.join(names)}. Give all the "
            "same flags, and a --workdir and data that all of them share"
        )


def from_main(name: str, make: Callable[[], Any]) -> Any:
    """Calls `make` on the first process and gives its result to all.

    Decisions about files need this: processes may see a change at different moments.

    Args:
        name: what is decided, for the message if a process never arrives.
        make: returns something that JSON can hold.
    """
    text = json.dumps(make()) if is_main() else ""
    return json.loads(gather(name, text)[0])


def wait_for_all(name: str) -> None:
    """Waits until every process has called it with this name."""
    gather(name, "")


def gather(name: str, text: str) -> list[str]:
    """Returns the texts of all processes, in their order. It needs no devices.

    Args:
        name: what is gathered, for the message if a process never arrives.
        text: the text of this process.
    """
    if jax.process_count() == 1:
        return [text]
    at(name)
    folder, client = f"codeformer_jax/gather/{next(_waits)}", connect.state().client
    client.key_value_set(f"{folder}/{jax.process_index()}", text)
    return [
        client.blocking_key_value_get(f"{folder}/{i}", _WAIT) for i in range(jax.process_count())
    ]


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
