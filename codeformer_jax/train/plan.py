"""What a run's steps will need, from the compiler alone: no data, no weights, no accelerator."""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.experimental import topologies
from jax.sharding import Mesh

from codeformer_jax.checkpoints.workdir import abstract_state
from codeformer_jax.ops.random import make_key
from codeformer_jax.system import parallel
from codeformer_jax.tasks import Task, common, groups, make_task, settings
from codeformer_jax.train.speed import step_flops
from codeformer_jax.train.step import make_step
from codeformer_jax.train.trace import parse_steps

# Without these libtpu asks the cloud's metadata server, for minutes, which TPU this machine has.
_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_CPU_NOTE = (
    "Compiled for virtual CPU devices. Arguments, outputs and aliases are exact; temporaries, "
    "and with them the peak, are an estimate: XLA's CPU compiler orders and fuses otherwise than "
    "an accelerator's, updates the state in a branch and holds bfloat16 as float32. With libtpu "
    "installed, --config.train.topology=v5e:4x4 (or another slice) compiles for TPUs instead."
)


@dataclass(frozen=True)
class StepCost:
    """One compiled variant of the step; sizes in bytes, everything of one device.

    Attributes:
        first_step: the first step that it takes.
        steps: how many it takes in the run.
        phase: the static part of its phase.
        flops: floating-point operations of a step.
        bytes_accessed: bytes read and written, as the compiler counts them.
        arguments: state, frozen networks and the batch.
        outputs: state and metrics.
        aliases: outputs that take the place of arguments.
        temporaries: everything between.
        peak: arguments + outputs - aliases + temporaries.
    """

    first_step: int
    steps: int
    phase: dict[str, Any]
    flops: float
    bytes_accessed: float
    arguments: int
    outputs: int
    aliases: int
    temporaries: int
    peak: int


@dataclass(frozen=True)
class Plan:
    """Costs of a run's first state and of every variant of its step.

    Attributes:
        platform: what it was compiled for.
        mesh: sizes of the mesh's axes.
        batch_size: of one step on all devices.
        state, frozen, batch: bytes of these arguments on one device.
        init: of the first state, which is made once, where nothing is given to start from.
        steps: by first step.
        notes: what a reader should know of the figures.
    """

    platform: str
    mesh: dict[str, int]
    batch_size: int
    state: int
    frozen: int
    batch: int
    init: StepCost
    steps: tuple[StepCost, ...]
    notes: tuple[str, ...]


def compile_only(config: ml_collections.ConfigDict, write: Callable[[str], None] = print) -> Plan:
    """Compiles first state and steps for `config.mesh` and writes what each will need.

    Lines on standard error say what is being compiled.

    The mesh may be larger than this machine: then virtual CPU devices stand for it, or, with
    `config.train.topology`, TPUs of that description. Nothing is read or written.

    Raises:
        ValueError: for settings that do not fit together, or a topology that is not known here.
    """
    plan = make_plan(config, lambda line: print(line, file=sys.stderr, flush=True))
    in_json = config.train.get("plan_format") == "json"
    write(json.dumps(asdict(plan), indent=2) if in_json else table(plan))
    return plan


def make_plan(
    config: ml_collections.ConfigDict, tell: Callable[[str], None] = lambda line: None
) -> Plan:
    """Makes the plan of a run, as `compile_only` writes it.

    Args:
        tell: called with a line before each compilation.
    """
    start = time.perf_counter()
    parse_steps(config.train.profile)
    settings.check(config)  # Before `make_task`, which needs the devices of the mesh, does so.
    mesh = planned_mesh(config.mesh, config.train.get("topology"))
    config, notes = _fitting_batch(config, mesh)
    task = make_task(config)
    arguments = abstract_arguments(task, config, mesh)
    sharding = jax.tree.map(lambda x: x.sharding, arguments[0])
    step = make_step(task, mesh, sharding)
    platform = mesh.devices.flat[0].platform
    # Machine code is not run: only what comes before it decides on memory.
    options = {"xla_backend_optimization_level": 0} if platform == "cpu" else {}
    slices = config.optimizer.get("accumulate", 1)
    notes += _counting_notes(config, platform)

    def cost(what: str, lower: Callable[[], Any], times: int, **fields: Any) -> StepCost:
        tell(f"{time.perf_counter() - start:.0f} s: compiling {what}")
        lowered = lower()
        compiled = lowered.compile(compiler_options=options)
        flops = step_flops(lowered, compiled, mesh.size) / mesh.size * times
        return _cost(compiled, flops=flops, slices=times, **fields)

    _, _, batch, key = arguments

    def first_state_of(key, images):
        return task.init(common.weak_keys(config, key), images, None)

    init = jax.jit(first_state_of, out_shardings=sharding)
    lower = partial(init.lower, key, batch["image"])
    first_state = cost("the first state", lower, 1, first=0, count=0, phase={})
    steps, phases = [], distinct_phases(task, config.steps)
    for number, (first, count, phase) in enumerate(phases, 1):
        static = _static(phase)
        what = f"step {number} of {len(phases)} ({_in_words(static)})"
        lower = partial(step.lower, *arguments, phase)
        steps.append(cost(what, lower, slices, first=first, count=count, phase=static))
    return Plan(
        platform=mesh.devices.flat[0].device_kind,
        mesh=dict(mesh.shape),
        batch_size=config.data.batch_size,
        **{
            name: _device_bytes(tree)
            for name, tree in zip(("state", "frozen", "batch"), arguments[:3], strict=True)
        },
        init=first_state,
        steps=tuple(steps),
        notes=tuple(notes),
    )


def _counting_notes(config: ml_collections.ConfigDict, platform: str) -> Iterator[str]:
    """Yields what the compiler's figures count differently from a step."""
    slices, parts = config.optimizer.get("accumulate", 1), groups.groups_of(config.loss)
    if slices > 1:
        yield (
            f"The compiler counts the body of a loop once: operations and bytes are its counts "
            f"times optimizer.accumulate={slices}, the optimizer's among them."
        )
    if parts > 1:
        yield (
            f"loss.statistics_groups={parts}: of the gradients for the adaptive weights the "
            "compiler counts those of one group."
        )
    if platform == "cpu":
        yield _CPU_NOTE


def planned_mesh(description: str, topology: str | None = None) -> Mesh:
    """The mesh, of devices that need not exist.

    Accelerators of this machine are taken where they suffice, otherwise virtual CPU devices, of
    which there are as many as the mesh needs where JAX has not yet started.

    Args:
        description: as `config.mesh`.
        topology: a TPU slice such as 'v5e:16x16', in place of both.

    Raises:
        ValueError: for a mesh or topology that cannot be had.
    """
    if topology:
        for name, value in _NO_TPU.items():
            os.environ.setdefault(name, value)
        try:
            devices = topologies.get_topology_desc(topology, platform="tpu").devices
        except Exception as error:
            raise ValueError(
                f"train.topology={topology!r} cannot be compiled for here: {error}. It takes "
                "libtpu (pip install libtpu) and a slice that it knows, such as v5e:4x4"
            ) from error
        return parallel.make_mesh(description, devices)
    sizes = parallel.mesh_sizes(description)
    if -1 in sizes.values():
        return parallel.make_mesh(description)
    wanted = math.prod(sizes.values())
    with contextlib.suppress(RuntimeError):  # Once JAX has started its devices are settled.
        jax.config.update("jax_num_cpu_devices", wanted)
    devices = jax.devices()
    if len(devices) < wanted:
        devices = jax.devices("cpu")
    return parallel.make_mesh(description, devices)


def abstract_arguments(task: Task, config: ml_collections.ConfigDict, mesh: Mesh) -> tuple:
    """State, frozen networks, inputs and key of the step as shapes with shardings."""
    state = abstract_state(task, config)
    size, batch = config.data.image_size, config.data.batch_size
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
    inputs, frozen = {"image": images}, {}
    key = jax.eval_shape(lambda: make_key(0))
    pixels = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    if task.needs_teacher:
        frozen["teacher"] = jax.eval_shape(task.teacher.init, key, pixels)
        if config.data.get("codes"):
            sites = (size // task.teacher.downsampling) ** 2
            inputs["codes"] = jax.ShapeDtypeStruct((batch, sites), jnp.int32)
    if task.needs_labels:
        inputs["label"] = jax.ShapeDtypeStruct((batch,), jnp.int32)
    if task.lpips is not None:
        frozen["lpips"] = jax.eval_shape(task.lpips.init, key, pixels, pixels)

    def placed(tree: Any, sharding: Any) -> Any:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )

    return (
        jax.tree.map(placed, state, parallel.state_sharding(mesh, state)),
        placed(frozen, parallel.replicated(mesh)),
        placed(inputs, parallel.batch_sharding(mesh)),
        placed(key, parallel.replicated(mesh)),
    )


def distinct_phases(task: Task, steps: int) -> list[tuple[int, int, Any]]:
    """(first step, number of steps, phase) of every phase that is compiled for itself."""
    found: dict[Any, list[Any]] = {}
    for step in range(steps):
        phase = task.phase(step)
        entry = found.setdefault(jax.tree.structure(phase), [step, 0, phase])
        entry[1] += 1
    return [tuple(entry) for entry in found.values()]


def table(plan: Plan) -> str:
    """The plan for reading."""
    mesh = ",".join(f"{name}:{size}" for name, size in plan.mesh.items())
    devices = math.prod(plan.mesh.values())
    lines = [
        f"{devices} x {plan.platform}, mesh {mesh}, batch {plan.batch_size} "
        f"({plan.batch_size // devices} on each device)",
        "",
    ]
    columns = {
        "steps": lambda c: f"{c.steps:,}" if c.steps else "",
        "from step": lambda c: f"{c.first_step:,}" if c.steps else "",
        "TFLOP": lambda c: f"{c.flops / 1e12:.3f}",
        "accessed": lambda c: _size(c.bytes_accessed),
        "arguments": lambda c: _size(c.arguments),
        "outputs": lambda c: _size(c.outputs),
        "aliases": lambda c: _size(c.aliases),
        "temporaries": lambda c: _size(c.temporaries),
        "peak": lambda c: _size(c.peak),
        "phase": _phase,
    }
    costs = (plan.init, *plan.steps)
    rows = [list(columns), *([show(c) for show in columns.values()] for c in costs)]
    lines += _aligned(rows)
    total = sum(c.flops * c.steps for c in plan.steps) * devices
    lines += [
        "",
        "The first row is the first state, made once; each other row is one compiled step. Figures "
        "are those of one device.",
        f"Arguments: state {_size(plan.state)}, frozen networks {_size(plan.frozen)}, "
        f"batch {_size(plan.batch)}, before those that a phase does not use.",
        f"The run: {total:.3g} FLOP on all devices.",
        *plan.notes,
    ]
    return "\n".join(lines)


def _fitting_batch(
    config: ml_collections.ConfigDict, mesh: Mesh
) -> tuple[ml_collections.ConfigDict, list[str]]:
    """The config with a batch that divides over the mesh, and a note where it did not."""
    try:
        parallel.check_batch(mesh, config)
    except ValueError as error:
        parts = mesh.size * max(1, config.optimizer.get("accumulate", 1))
        parts = math.lcm(parts, groups.groups_of(config.loss))
        config = config.copy_and_resolve_references().unlock()
        config.data.batch_size = -(-config.data.batch_size // parts) * parts
        note = f"A run would be refused: {error}. Planned with {config.data.batch_size} instead."
        return config, [note]
    return config, []


def _cost(
    compiled: Any, *, first: int, count: int, phase: dict[str, Any], flops: float, slices: int
) -> StepCost:
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    arguments, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
    aliases, temporaries = memory.alias_size_in_bytes, memory.temp_size_in_bytes
    return StepCost(
        first_step=first,
        steps=count,
        phase=phase,
        flops=flops,
        bytes_accessed=cost.get("bytes accessed", 0.0) * slices,
        arguments=arguments,
        outputs=outputs,
        aliases=aliases,
        temporaries=temporaries,
        peak=arguments + outputs - aliases + temporaries,
    )


def _phase(cost: StepCost) -> str:
    if not cost.steps:
        return "first state"
    return _in_words(cost.phase)


def _static(phase: Any) -> dict[str, Any]:
    """What of a phase is compiled in: flags, and whether there is a second recipe."""
    fields = getattr(phase, "__dict__", {})
    fields = {name: value for name, value in fields.items() if isinstance(value, bool)}
    if getattr(phase, "code_recipe", None) is not None:
        fields["code_recipe"] = True
    return fields


def _in_words(phase: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in phase.items()) or "the only one"


def _device_bytes(tree: Any) -> int:
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def _size(count: int | float) -> str:
    unit = next((u for u in ("B", "KiB", "MiB") if count < 1024 ** (1 + _UNITS.index(u))), "GiB")
    value = count / 1024 ** _UNITS.index(unit)
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.2f} {unit}"


_UNITS = ("B", "KiB", "MiB", "GiB")


def _aligned(rows: Iterable[list[str]]) -> list[str]:
    """Columns to the right, but for the last."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [cell.rjust(w) for cell, w in zip(row[:-1], widths, strict=False)] + [row[-1]]
        ).rstrip()
        for row in rows
    ]
