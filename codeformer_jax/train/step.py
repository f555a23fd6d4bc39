"""The jitted training step: its state is donated and sharded, its key is its own."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key

from codeformer_jax.ops.devices import on_all_devices
from codeformer_jax.system import parallel
from codeformer_jax.tasks import Task
from codeformer_jax.tasks.state import TrainState

# Stream of randomness, folded into the seed; `run` and `heldout` have the others.
STEP = 1
# With fewer than eight images a chip, libtpu cuts maps into strips and stacks them as a batch. At
# 512 px the copies between the strips take most of the step's memory traffic (docs/distributed.md).
_TPU_OPTIONS = {
    "xla_tpu_run_space_to_batch": "false",
    "xla_tpu_run_space_to_batch_on_new_platforms": "false",
}


def step_key(key: Key[Array, ""], step: Int[Array, ""]) -> Key[Array, ""]:
    """Returns the key of a step, given the run's key."""
    return jax.random.fold_in(jax.random.fold_in(key, STEP), step)


def whole_networks(state: TrainState) -> TrainState:
    """Returns the state with all parameters and collections whole on every device.

    Each is gathered once per step. A convolution with a shard of its kernel would instead send
    activations between the devices.
    """
    judge = state.discriminator
    if judge is not None:
        judge = judge.replace(params=on_all_devices(judge.params))
    return state.replace(
        params=on_all_devices(state.params),
        collections=on_all_devices(state.collections),
        discriminator=judge,
    )


def step_options(task: Task, platform: str) -> dict[str, str]:
    """Returns the compiler's options for a step on devices of this `jax.Device.platform`."""
    return task.compiler_options(platform) | (_TPU_OPTIONS if platform == "tpu" else {})


def make_step(task: Task, mesh: Mesh, sharding: Any) -> Callable[..., tuple[Any, Any]]:
    """Returns the jitted step (state, frozen, inputs, key, phase) -> (state, metrics).

    It is compiled once for each static part of a phase.

    Args:
        task: the task to train.
        mesh: the devices to run on.
        sharding: the sharding of the state, which is donated.
    """

    def step(state, frozen, inputs, key, phase):
        key = step_key(key, state.step)
        names = {"codes": "codes", "label": "labels"}
        extras = {given: inputs[name] for name, given in names.items() if name in inputs}
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            state = whole_networks(state)
            return task.train_step(state, frozen, inputs["image"], key, phase, **extras)

    return jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(sharding, parallel.replicated(mesh)),
        compiler_options=step_options(task, mesh.devices.flat[0].platform),
    )
