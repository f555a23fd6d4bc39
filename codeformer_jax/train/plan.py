"""Memory, operations and traffic of a run, from the compiler alone: no data or accelerator."""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.experimental import topologies
from jax.sharding import Mesh

from codeformer_jax.checkpoints.workdir import abstract_state
from codeformer_jax.system import parallel
from codeformer_jax.system.keys import make_key
from codeformer_jax.tasks import Task, common, groups, make_task, settings
from codeformer_jax.train.estimate import StepTime, Traffic, step_times, traffic_by_axis
from codeformer_jax.train.monitor import parse_steps
from codeformer_jax.train.speed import step_flops
from codeformer_jax.train.step import make_step
from codeformer_jax.train.traffic import collectives

# Without these libtpu asks the cloud's metadata server for minutes which TPU this machine has.
_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_CPU_NOTE = (
    "Compiled for virtual CPU devices. Arguments, outputs and aliases are exact. Temporaries, "
    "and with them the peak, are an estimate: XLA's CPU compiler orders and fuses differently, "
    "updates the state in a branch and holds bfloat16 as float32. With libtpu installed, "
    "--config.train.topology=v5e:4x4 (or another slice) compiles for TPUs instead."
)


@dataclass(frozen=True)
class StepCost:
    """Cost of one compiled variant of the step, per device. Sizes are bytes.

    Attributes:
        first_step: the first step that uses it.
        steps: number of steps of the run that use it.
        phase: the static part of its phase.
        flops: floating-point operations per step.
        bytes_accessed: bytes read and written, as the compiler counts them.
        arguments: state, frozen networks and batch.
        outputs: state and metrics.
        aliases: outputs that reuse the memory of arguments.
        temporaries: everything in between.
        peak: arguments + outputs - aliases + temporaries.
        traffic: collectives by kind and mesh axis.
        times: estimated seconds of the step, by kind of chip.
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
    traffic: tuple[Traffic, ...]
    times: Mapping[str, StepTime]


@dataclass(frozen=True)
class Plan:
    """Costs of a run's first state and of every variant of its step.

    Attributes:
        platform: the kind of device that it was compiled for.
        mesh: sizes of the mesh's axes.
        batch_size: images per step on all devices.
        state, frozen, batch: bytes of these arguments on one device.
        init: cost of the first state, made once, without a network to start from.
        steps: costs of the variants, by first step.
        notes: remarks on the figures.
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


def compile_only(config: ml_collections.ConfigDict) -> Plan:
    """Compiles first state and steps for `config.mesh` and prints what each needs.

    The mesh may be larger than this machine: virtual CPU devices take its place or, with
    `config.train.topology`, a description of TPUs. No file is read or written.

    Args:
        config: the run's config; `train.plan_format` is 'table' or 'json'.

    Raises:
        ValueError: if settings do not fit together, or the topology is unknown.
    """
    plan = make_plan(config)
    in_json = config.train.get("plan_format") == "json"
    print(json.dumps(asdict(plan), indent=2) if in_json else table(plan))
    return plan


def make_plan(config: ml_collections.ConfigDict) -> Plan:
    """Makes the plan of a run. Progress goes to standard error."""
    start = time.perf_counter()
    parse_steps(config.train.profile)
    settings.check(config)  # Before JAX starts; `make_task` checks again.
    mesh = planned_mesh(config.mesh, config.train.get("topology"))
    parallel.check_batch(mesh, config)
    task = make_task(config)
    arguments = abstract_arguments(task, config, mesh)
    sharding = jax.tree.map(lambda x: x.sharding, arguments[0])
    step = make_step(task, mesh, sharding)
    platform = mesh.devices.flat[0].platform
    # The machine code is not run, and its optimization does not change the memory.
    options = {"xla_backend_optimization_level": 0} if platform == "cpu" else {}
    slices = config.optimizer.get("accumulate", 1)

    def cost(what: str, lower: Callable[[], Any], times: int, **fields: Any) -> StepCost:
        seconds = time.perf_counter() - start
        print(f"{seconds:.0f} s: compiling {what}", file=sys.stderr, flush=True)
        lowered = lower()
        compiled = lowered.compile(compiler_options=options)
        flops = step_flops(lowered, compiled, mesh.size) / mesh.size * times
        counts = compiled.cost_analysis() or {}
        bytes_accessed = counts.get("bytes accessed", 0.0) * times
        traffic = traffic_by_axis(collectives(compiled.as_text(), mesh.shape))
        return StepCost(
            flops=flops,
            bytes_accessed=bytes_accessed,
            traffic=traffic,
            times=step_times(flops, bytes_accessed, traffic),
            **_memory(compiled),
            **fields,
        )

    _, _, batch, key = arguments

    def init(key, images):
        return task.init(common.weak_keys(config, key), images, None)

    lower = partial(jax.jit(init, out_shardings=sharding).lower, key, batch["image"])
    first_state = cost("the first state", lower, 1, first_step=0, steps=0, phase={})
    steps, phases = [], distinct_phases(task, config.steps)
    for number, (first, count, phase) in enumerate(phases, 1):
        static = _static(phase)
        what = f"step {number} of {len(phases)} ({_in_words(static)})"
        lower = partial(step.lower, *arguments, phase)
        steps.append(cost(what, lower, slices, first_step=first, steps=count, phase=static))
    return Plan(
        platform=mesh.devices.flat[0].device_kind,
        mesh=dict(mesh.shape),
        batch_size=config.data.batch_size,
        state=_device_bytes(arguments[0]),
        frozen=_device_bytes(arguments[1]),
        batch=_device_bytes(arguments[2]),
        init=first_state,
        steps=tuple(steps),
        notes=tuple(_counting_notes(config, platform)),
    )


def _counting_notes(config: ml_collections.ConfigDict, platform: str) -> Iterator[str]:
    """Yields how the compiler's counts differ from those of a step."""
    slices, parts = config.optimizer.get("accumulate", 1), groups.groups_of(config.loss)
    if slices > 1:
        yield (
            f"The compiler counts the body of a loop once: operations and bytes, also the "
            f"optimizer's, are its counts times optimizer.accumulate={slices}."
        )
    if parts > 1:
        yield (
            f"loss.statistics_groups={parts}: the compiler counts the gradients for the adaptive "
            "weights of one group only."
        )
    if platform == "cpu":
        yield _CPU_NOTE


def planned_mesh(description: str, topology: str | None = None) -> Mesh:
    """Makes a mesh of devices that need not exist.

    It uses the accelerators of this machine if there are enough, else virtual CPU devices. JAX must
    not have started to make as many as the mesh needs.

    Args:
        description: a mesh like 'data:4,fsdp:2'.
        topology: a TPU slice such as 'v5e:16x16' to use instead, as often as the mesh has slices.

    Raises:
        ValueError: if the mesh or topology cannot be made.
    """
    if topology:
        count = parallel.mesh_sizes(description).get("slice", 1)
        if count == -1:
            raise ValueError("train.topology needs the number of slices, e.g. 'slice:2'")
        for name, value in _NO_TPU.items():
            os.environ.setdefault(name, value)
        slices = {"num_slices": count} if count > 1 else {}
        try:
            devices = topologies.get_topology_desc(topology, platform="tpu", **slices).devices
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
    with contextlib.suppress(RuntimeError):  # JAX has started.
        jax.config.update("jax_num_cpu_devices", wanted)
    devices = jax.devices()
    if len(devices) < wanted:
        devices = jax.devices("cpu")
    return parallel.make_mesh(description, devices)


def abstract_arguments(task: Task, config: ml_collections.ConfigDict, mesh: Mesh) -> tuple:
    """Describes the arguments of a step.

    Args:
        task: the task.
        config: the run's config.
        mesh: the devices.

    Returns:
        (state, frozen, inputs, key) as shapes with shardings.
    """
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
    """Returns the phases that are compiled separately.

    Args:
        task: the task.
        steps: number of steps of the run.

    Returns:
        (first step, number of steps, phase) of each.
    """
    found: dict[Any, list[Any]] = {}
    for step in range(steps):
        phase = task.phase(step)
        entry = found.setdefault(jax.tree.structure(phase), [step, 0, phase])
        entry[1] += 1
    return [tuple(entry) for entry in found.values()]


def table(plan: Plan) -> str:
    """Returns the plan as text."""
    mesh = ",".join(f"{name}:{size}" for name, size in plan.mesh.items())
    devices = math.prod(plan.mesh.values())
    lines = [
        f"{devices} x {plan.platform}, mesh {mesh}, batch {plan.batch_size} "
        f"({plan.batch_size // devices} on each device)",
        "",
    ]
    sizes = ("accessed", "arguments", "outputs", "aliases", "temporaries", "peak")
    rows = [("steps", "from step", "TFLOP", *sizes, "phase")]
    for c in (plan.init, *plan.steps):
        when = (f"{c.steps:,}", f"{c.first_step:,}") if c.steps else ("", "")
        held = (c.bytes_accessed, c.arguments, c.outputs, c.aliases, c.temporaries, c.peak)
        phase = _in_words(c.phase) if c.steps else "first state"
        rows.append((*when, f"{c.flops / 1e12:.3f}", *map(_size, held), phase))
    lines += ["".join(f"{cell:>13}" for cell in row[:-1]) + f"  {row[-1]}" for row in rows]
    for number, c in enumerate(plan.steps, 1):
        lines += ["", f"Step {number} of {len(plan.steps)} ({_in_words(c.phase)}):"]
        lines += _traffic_and_time(c)
    total = sum(c.flops * c.steps for c in plan.steps) * devices
    lines += [
        "",
        "The first row is the first state, made once; every other row is a compiled step. Figures "
        "are per device.",
        f"Arguments: state {_size(plan.state)}, frozen networks {_size(plan.frozen)}, "
        f"batch {_size(plan.batch)}; a phase may not use all.",
        f"The run: {total:.3g} FLOP on all devices.",
        "Times are estimates from published peaks: the longest part if all overlap, and the sum if "
        "none does. No run has been timed.",
        *plan.notes,
    ]
    return "\n".join(lines)


def _traffic_and_time(cost: StepCost) -> list[str]:
    """Returns the tables of a step's collectives and of its estimated time."""
    lines = [
        "  collective          axes                 count        bytes  sent inside   to slices"
    ]
    lines += [
        f"  {t.kind:<20}{t.axes:<18}{t.count:>8}{_size(t.bytes):>13}{_size(t.inside):>13}"
        f"{_size(t.between):>12}"
        for t in cost.traffic
    ]
    parts = ("operations", "memory", "links", "network", "least", "most")
    lines.append(f"  {'milliseconds':<14}" + "".join(f"{part:>12}" for part in parts))
    for chip, estimate in cost.times.items():
        row = "".join(f"{getattr(estimate, part) * 1e3:>12.3f}" for part in parts)
        lines.append(f"  {chip:<14}{row}")
    return lines


def _memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    memory = compiled.memory_analysis()
    arguments, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
    aliases, temporaries = memory.alias_size_in_bytes, memory.temp_size_in_bytes
    return {
        "arguments": arguments,
        "outputs": outputs,
        "aliases": aliases,
        "temporaries": temporaries,
        "peak": arguments + outputs - aliases + temporaries,
    }


def _static(phase: Any) -> dict[str, Any]:
    """Returns what is compiled into a step: flags, and whether there is a second recipe."""
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
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.{0 if unit == 'B' else 2}f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
