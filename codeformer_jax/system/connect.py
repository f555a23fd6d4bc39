"""The start of several processes, which ends in time and names the processes that are missing."""

import functools
import socket
import threading
from typing import Any

import jax
from jax._src import distributed

from codeformer_jax.system import peers

_MORE = 30  # Seconds for process 0 to name the missing ones before the others give up.


def connect(timeout: float, *arguments: Any, **detection: Any) -> None:
    """Calls `jax.distributed.initialize` with a limit.

    Past the limit this process prints what it waits for, and JAX ends it.

    Args:
        timeout: the limit in seconds.
        arguments, detection: arguments of `jax.distributed.initialize`.
    """
    # JAX's service knows which processes are missing. It waits for an hour before it names them,
    # and `initialize` has no argument for that. A JAX without this name only loses the message.
    module, name = getattr(distributed, "_jax", None), "get_distributed_runtime_service"
    service = getattr(module, name, None)
    timer = threading.Timer(timeout, _not_started, [timeout])
    timer.start()
    if service is not None:
        setattr(module, name, functools.partial(service, cluster_register_timeout=int(timeout) + 1))
    try:
        limit = {"initialization_timeout": int(timeout) + _MORE}
        jax.distributed.initialize(*arguments, **limit, **detection)
    finally:
        if service is not None:
            setattr(module, name, service)
        timer.cancel()


def _not_started(timeout: float) -> None:
    """Reports that processes are missing."""
    state = distributed.global_state
    address, missing = state.coordinator_address, None
    if address is None:
        missing = "The address of process 0 is not known yet"
    elif state.process_id != 0 and not _answers(address):
        missing = f"Process 0 does not answer at {address}"
    named = "JAX names the missing ones below as 'timed out task names'"
    peers.report(
        f"process {state.process_id} has waited {timeout:g} s for all processes to start "
        f"(--initialization-timeout). {missing or named}"
    )
    if missing:
        peers.end()


def _answers(address: str) -> bool:
    """Returns whether a program listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        return False
    return True
