"""Real tasks on seeded weights, with an optimizer that also keeps the gradients it is given."""

import dataclasses

import jax
import jax.numpy as jnp
from parity import support

from codeformer_jax import convert
from codeformer_jax.tasks.state import DiscriminatorState, TrainState
from codeformer_jax.train.recorded_step import recording


def record(task, transform=None):
    """Makes the task's optimizer, or `transform` in its place, a recording one."""
    transform = recording(transform or task.optimizer.transform)
    task.optimizer = dataclasses.replace(task.optimizer, transform=transform)


def make_state(task, variables, trained, codebook_size, discriminator=None):
    """Step 0 of a run that starts from these variables."""
    params = variables["params"]
    if discriminator is not None:
        discriminator = DiscriminatorState(
            discriminator["params"],
            task.optimizer.init(discriminator["params"]),
            discriminator["batch_stats"],
        )
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=trained,
        opt_state=task.optimizer.init(trained),
        collections={},
        code_usage=jnp.zeros(codebook_size),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_row=jnp.zeros((), jnp.int32),
        discriminator=discriminator,
    )


def one_step(task, state, frozen, images):
    """(state, metrics) after step 0."""

    @support.jit
    def step(state, frozen, images):
        return task.train_step(state, frozen, images, jax.random.key(0), task.phase(0))

    return step(state, frozen, images)


def torch_gradients(network, state):
    """{PyTorch name: gradient} of a state, or of a discriminator's state."""
    variables = {"params": state.opt_state.gradients}
    if network == "discriminator":
        variables["batch_stats"] = state.batch_stats
    return convert.to_torch(network, variables)
