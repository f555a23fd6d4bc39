"""Traffic between devices in a compiled step or evaluation, and the work of each."""

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from linear import linear_config

from codeformer_jax.system import parallel
from codeformer_jax.tasks import make_task
from codeformer_jax.train import plan
from codeformer_jax.train.heldout import make_evaluation
from codeformer_jax.train.step import make_step
from codeformer_jax.train.traffic import collectives

# Above 128 px images are blurred by a transform. No width of a network equals one of the sides.
SIDES = (160, 80, 40, 20)
# Of each device; no width of a network equals the batch of eight devices.
IMAGES = 7


@dataclass(frozen=True)
class Program:
    """A compiled step or evaluation.

    Attributes:
        flops, temporaries: operations and bytes of one device.
        largest: bytes and shape of the largest array that a collective gives a device.
        activations: shapes of such arrays that belong to images.
        unexpected: collectives of anything other than parameters, gradients and statistics.
    """

    flops: float
    temporaries: int
    largest: tuple[int, tuple[int, ...]]
    activations: list[tuple[int, ...]]
    unexpected: list[str]


def sharded_config(name, mesh):
    """A tiny config of `linear.NAMES` for images of 160 px, `IMAGES` on each device of the mesh."""
    config = linear_config(name, mesh=mesh).unlock()
    config.steps = 1
    config.data.image_size = SIDES[0]
    config.data.batch_size = IMAGES * parallel.make_mesh(mesh).size
    if "nf" in config.get("model", {}):
        config.model.update(
            image_size=SIDES[0], ch_mult=(1, 1, 2, 2), attn_resolutions=(SIDES[-1],)
        )
    if "codeformer" in config:
        config.codeformer.connect_list = SIDES[1:3]
    return config.lock()


@functools.lru_cache(maxsize=2)  # For a step and an evaluation, on one device and on a mesh.
def prepared(name, description):
    """A tiny task, its mesh and the shapes of its step's arguments."""
    config = sharded_config(name, description)
    task, mesh = make_task(config), parallel.make_mesh(description)
    return task, mesh, plan.abstract_arguments(task, config, mesh)


def compiled_step(name, description):
    """The `Program` of a task's training step."""
    task, mesh, arguments = prepared(name, description)
    sharding = jax.tree.map(lambda x: x.sharding, arguments[0])
    lowered = make_step(task, mesh, sharding).lower(*arguments, task.phase(0))
    return read(lowered.compile(), arguments[0], task.config.data.batch_size, mesh)


def compiled_evaluation(name, description, *, sample=False):
    """The `Program` of a task's evaluation, or of its sampling."""
    task, mesh, (state, frozen, inputs, key) = prepared(name, description)
    rows, batch, inputs = parallel.batch_sharding(mesh), task.config.data.batch_size, dict(inputs)
    for field, dtype in (("index", jnp.int32), ("valid", jnp.bool_)):
        inputs[field] = jax.ShapeDtypeStruct((batch,), dtype, sharding=rows)
    evaluation = make_evaluation(task.sample_step if sample else task.eval_step, mesh, rows)
    return read(evaluation.lower(state, frozen, inputs, key).compile(), state, batch, mesh)


def read(compiled, state, batch, mesh):
    """The `Program`; arrays of the state and their shards are no activations."""
    leaves = jax.tree.leaves(state)
    own = {x.shape for x in leaves} | {x.sharding.shard_shape(x.shape) for x in leaves}
    found = collectives(compiled.as_text(), mesh.shape)
    sent = [array for collective in found for array in collective.arrays]
    return Program(
        flops=compiled.cost_analysis()["flops"],
        temporaries=compiled.memory_analysis().temp_size_in_bytes,
        largest=max(sent, default=(0, ())),
        activations=[
            shape for _, shape in sent if is_activation(shape, batch) and shape not in own
        ],
        unexpected=unexpected(found, own),
    )


def unexpected(found, own):
    """Names collectives that are no reductions or gathers of what belongs to a network.

    That is arrays of the shapes `own`, stacks of them (attention sums the gradients of queries,
    keys and values in one), and statistics: scalars, and vectors no longer than an axis of these
    arrays. Nothing may come from work that is done image by image on each device.
    """
    longest = max((n for shape in own for n in shape), default=1)

    def belongs(shape):
        if math.prod(shape) == max(shape, default=1):
            return math.prod(shape) <= longest
        return any(shape[1:] == o[1:] and shape[0] in (o[0], 3 * o[0]) for o in own if o)

    return [
        f"{c.kind} of {[shape for _, shape in c.arrays if not belongs(shape)]} in {c.source[:200]}"
        for c in found
        if c.kind not in ("all-reduce", "all-gather", "reduce-scatter")
        or "shard_map" in c.source
        or not all(belongs(shape) for _, shape in c.arrays)
    ]


def is_activation(shape, batch):
    """Whether a shape has the global batch, or the height and width of a map, among its axes."""
    return batch in shape or sum(n in SIDES for n in shape) > 1


def take_accelerators_branch(*arguments, default, cpu=None, tpu=None):
    """In place of `jax.lax.platform_dependent`: the program of accelerators, compiled for CPUs."""
    del cpu
    return (tpu or default)(*arguments)
