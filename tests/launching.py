"""Programs as processes of their own."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VARIABLES = ("SLURM_", "OMPI_", "TPU_", "JOB_COMPLETION", "JAX_COORDINATOR")


def with_devices(count=1, **changes):
    """Returns the environment of a process with `count` devices and the tests' compiler flags."""
    flags = re.sub(r"(device_count)=\d+", rf"\1={count}", os.environ["XLA_FLAGS"])
    return {**os.environ, "XLA_FLAGS": flags, **changes}


def launch(script, *arguments, numbers=range(2), devices=2):
    """Starts processes; `arguments` may contain the coordinator's address {0} and a number {1}."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    environment = with_devices(devices, PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
    environment = {k: v for k, v in environment.items() if not k.startswith(VARIABLES)}
    return [
        subprocess.Popen(
            [sys.executable, ROOT / script, *(a.format(address, i) for a in arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in numbers
    ]


def finish(processes, code=0):
    """Returns what each printed; fails if one ends with another code, and leaves none running."""
    try:
        outputs = [process.communicate(timeout=480)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == code, output
    return outputs
