"""Checks of the machines of a run: versions, devices, accelerators that are not used."""

import importlib.metadata
import json
import os
import platform
import socket
from typing import Any

import jax

from codeformer_jax import __version__
from codeformer_jax.system import hosts
from codeformer_jax.train.doctor.finding import Finding, Report, limited

PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "orbax-checkpoint", "gcsfs", "s3fs")
# Device files of accelerators, and the extra of JAX that computes on them.
ACCELERATORS = {"/dev/nvidia0": "cuda12", "/dev/accel0": "tpu", "/dev/vfio/0": "tpu"}


def check_machines(report: Report) -> tuple[list[Finding], list[str]]:
    """Reports versions and devices, and compares those of all processes.

    Args:
        report: takes lines.

    Returns:
        What is wrong, and the name of the machine of each process.
    """
    versions = {"codeformer_jax": __version__, "Python": platform.python_version()} | _versions()
    report(f"versions   {_worded(versions, ' ')}")
    report("devices    starting ...")
    with limited("start of the devices"):
        devices = jax.devices()
    local = jax.local_devices()
    own = {
        "name": socket.gethostname(),
        "versions": versions,
        "devices": f"{len(local)} x {local[0].device_kind}",
    }
    with limited("exchange of versions and devices"):
        machines = [json.loads(text) for text in hosts.gather("versions", json.dumps(own))]
    names = [machine["name"] for machine in machines]
    slices = {getattr(device, "slice_index", 0) for device in devices}
    processes = f"{len(machines)} process{'es' if len(machines) > 1 else ''}"
    report(
        f"devices    {len(devices)} x {devices[0].device_kind}, {processes} on "
        f"{len(set(names))} machine{'s' if len(set(names)) > 1 else ''}"
        f"{f', {len(slices)} slices' if len(slices) > 1 else ''}"
    )
    found = _differences(machines)
    there = next((path for path in ACCELERATORS if os.path.exists(path)), None)
    if devices[0].platform == "cpu" and there:
        found.append(
            Finding(
                f"this machine has an accelerator ({there}), and JAX computes on the CPU",
                f"pip install 'jax[{ACCELERATORS[there]}]', and unset JAX_PLATFORMS",
            )
        )
    return found, names


def _versions() -> dict[str, str]:
    """Returns the version of each of `PACKAGES` that is installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _differences(machines: list[dict[str, Any]]) -> list[Finding]:
    """Compares the processes with process 0; the findings are the same on all."""
    found = []
    for index, machine in enumerate(machines):
        if machine["devices"] != machines[0]["devices"]:
            found.append(
                Finding(
                    f"process {index} ({machine['name']}) has {machine['devices']}, process 0 has "
                    f"{machines[0]['devices']}",
                    "give every process the same devices, or leave that machine out",
                )
            )
        first = machines[0]["versions"]
        differing = {
            name: f"{machine['versions'].get(name, 'missing')} (process 0: {first.get(name)})"
            for name in first.keys() | machine["versions"].keys()
            if machine["versions"].get(name) != first.get(name)
        }
        if differing:
            found.append(
                Finding(
                    f"process {index} ({machine['name']}) has {_worded(differing, ' ')}",
                    "install the same packages everywhere: one image, or constraints.txt",
                )
            )
    return found


def _worded(values: dict[str, str], between: str) -> str:
    return ", ".join(f"{name}{between}{value}" for name, value in sorted(values.items()))
