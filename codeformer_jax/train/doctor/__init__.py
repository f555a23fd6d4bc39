"""Checks of machines before a run: devices, links between them, the workdir, the data."""

import json

import jax
import ml_collections

from codeformer_jax.system import hosts, parallel
from codeformer_jax.train.doctor.data import check_data
from codeformer_jax.train.doctor.finding import Finding, Report
from codeformer_jax.train.doctor.links import check_links
from codeformer_jax.train.doctor.machine import check_machines
from codeformer_jax.train.doctor.workdir import check_workdir


def _print(line: str) -> None:
    if hosts.is_main():
        print(line, flush=True)  # A limit ends the process without a flush.


def examine(
    config: ml_collections.ConfigDict | None,
    mesh: str | None = None,
    workdir: str | None = None,
    *,
    megabytes: int = 64,
    seconds: float = 5.0,
    report: Report = _print,
) -> list[Finding]:
    """Runs all checks that the arguments allow.

    Every process of a distributed run (`hosts.initialize`) calls it with the same arguments.
    Devices, links or a workdir that hang end the process with its stacks.

    Args:
        config: config of a run, whose data and steps are timed.
        mesh: a mesh like 'data:4,fsdp:2'; default: that of `config`, or all devices.
        workdir: folder or bucket to write to, which need not exist. It is left as it is.
        megabytes: size of what is reduced over the devices and written to the workdir.
        seconds: time for which data are read.
        report: takes each line of the report as soon as it is known; only the first process
            prints by default.

    Returns:
        What is wrong on any process, the same on all.

    Raises:
        ValueError: if `mesh` does not fit the devices, or settings of `config` are out of range.
    """
    description = mesh or (config.mesh if config is not None else "data:-1")
    found, names = check_machines(report)
    built = parallel.make_mesh(description)
    sizes = ",".join(f"{name}:{size}" for name, size in built.shape.items())
    report(f"mesh       {sizes}")
    found += check_links(built, names, megabytes << 20, report)
    if workdir is not None:
        found += check_workdir(workdir, megabytes << 20, report)
    if config is not None:
        found += check_data(config, built, workdir, seconds, report)
    return _of_all(found)


def _of_all(found: list[Finding]) -> list[Finding]:
    """Returns the findings of all processes; those of some name their processes."""
    own = json.dumps([[finding.what, finding.remedy] for finding in found])
    processes: dict[tuple[str, str], list[int]] = {}
    for index, text in enumerate(hosts.gather("what is wrong", own)):
        for what, remedy in json.loads(text):
            processes.setdefault((what, remedy), []).append(index)
    merged = []
    for (what, remedy), where in processes.items():
        some = "" if len(where) == jax.process_count() else f"process {_listed(where)}: "
        merged.append(Finding(f"{some}{what}", remedy))
    return merged


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
