"""The step as the loop takes it: donated, sharded, with the step's own key."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from codeformer_jax.nn.remat import compiler_options
from codeformer_jax.ops.devices import on_all_devices
from codeformer_jax.system import parallel
from codeformer_jax.tasks import Task
from codeformer_jax.tasks.state import TrainState

# Stream of randomness, folded into the seed; `loop` and `heldout` have the others.
STEP = 1


def whole_networks(state: TrainState) -> TrainState:
    """Returns the state with everything that networks read whole on every device.

    Inside the mesh in use each is gathered once. A convolution or a product with a part of a
    parameter would send activations to where the other parts lie.
    """
    judge = state.discriminator
    if judge is not None:
        judge = judge.replace(params=on_all_devices(judge.params))
    return state.replace(
        params=on_all_devices(state.params),
        collections=on_all_devices(state.collections),
        discriminator=judge,
    )


def make_step(task: Task, mesh: Mesh, sharding: Any) -> Callable[..., tuple[Any, Any]]:
    """(state, frozen, inputs, key, phase) -> (state, metrics), jitted for `mesh`.

    It has one compiled variant for each static part of a phase.

    Args:
        sharding: of the state, which is donated.
    """

    def step(state, frozen, inputs, key, phase):
        key = jax.random.fold_in(jax.random.fold_in(key, STEP), state.step)
        names = {"codes": "codes", "label": "labels"}
        extras = {given: inputs[name] for name, given in names.items() if name in inputs}
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            state = whole_networks(state)
            return task.train_step(state, frozen, inputs["image"], key, phase, **extras)

    return jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(sharding, parallel.replicated(mesh)),
        compiler_options=compiler_options(task.remat, mesh.devices.flat[0].platform),
    )
