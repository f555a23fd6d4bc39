"""The start of several processes, which ends in time and names the processes that are missing.

The only place that uses private names of JAX: it has no public ones for its key-value store.
"""

import functools
import socket
import sys
import threading
from typing import Any

import jax

from codeformer_jax.system import peers

try:
    from jax._src import distributed
except ImportError:  # A single process does not need it.
    distributed = None

_PATIENCE = 10.0  # Seconds of waiting before a line says so.
_MORE = 30  # Seconds for process 0 to name the missing ones before the others give up.


def connect(timeout: float, *arguments: Any, **options: Any) -> None:
    """Calls `jax.distributed.initialize` with a limit.

    Past the limit this process prints what it waits for, and JAX ends it.

    Args:
        timeout: the limit in seconds.
        arguments, options: arguments of `jax.distributed.initialize`.
    """
    state()  # Raises before the start if this version of JAX does not fit.
    # JAX's service knows which processes are missing. It waits for an hour before it names them,
    # and `initialize` has no argument for that. A JAX without this name only loses the message.
    module, name = getattr(distributed, "_jax", None), "get_distributed_runtime_service"
    service = getattr(module, name, None)
    timer = threading.Timer(timeout, _not_started, [timeout])
    timer.start()
    text = f"waiting for all processes to start, at most {timeout:g} s (--initialization-timeout)"
    news = threading.Timer(_PATIENCE, print, [text], {"file": sys.stderr, "flush": True})
    news.start()
    if service is not None:
        setattr(module, name, functools.partial(service, cluster_register_timeout=int(timeout) + 1))
    try:
        limit = {"initialization_timeout": int(timeout) + _MORE}
        jax.distributed.initialize(*arguments, **limit, **options)
    finally:
        if service is not None:
            setattr(module, name, service)
        timer.cancel()
        news.cancel()


def state() -> Any:
    """Returns JAX's state of several processes.

    Its attributes are `client`, `process_id`, `num_processes` and `coordinator_address`.

    Raises:
        RuntimeError: if this version of JAX keeps it elsewhere.
    """
    found = getattr(distributed, "global_state", None)
    if found is None:
        raise RuntimeError(
            f"JAX {jax.__version__} has no jax._src.distributed.global_state, which several "
            "processes need; install the version of JAX that constraints.txt names"
        )
    return found


def _not_started(timeout: float) -> None:
    """Reports that processes are missing."""
    found, missing = state(), None
    address, who = found.coordinator_address, f"process {found.process_id}"
    if address is None:
        who, missing = "this process", "The address of process 0 is not known yet"
    elif found.process_id != 0 and not _answers(address):
        missing = f"Process 0 does not answer at {address}"
    named = "JAX names the missing ones below as 'timed out task names'"
    peers.report(
        f"{who} has waited {timeout:g} s for all processes to start (--initialization-timeout). "
        f"{missing or named}"
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
