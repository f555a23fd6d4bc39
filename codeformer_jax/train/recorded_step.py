"""One training step of any task with its gradients, as a trace to compare with PyTorch's."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from codeformer_jax.compare.steps import step_trace
from codeformer_jax.compare.trace import Trace
from codeformer_jax.ops.checks import AnyArray
from codeformer_jax.system.keys import make_key
from codeformer_jax.tasks.protocol import Task
from codeformer_jax.tasks.state import PyTree, TrainState


class Recorded(NamedTuple):
    """State of `recording`: the last gradients, and the state of the transformation itself."""

    gradients: PyTree
    inner: PyTree


def recording(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns a transformation that also keeps the gradients of the last step in its state."""

    def update(gradients, state, params=None):
        updates, inner = transform.update(gradients, state.inner, params)
        return updates, Recorded(gradients, inner)

    def init(params):
        return Recorded(jax.tree.map(jnp.zeros_like, params), transform.init(params))

    return optax.GradientTransformation(init, update)


def with_degraded(task: Task, degraded: AnyArray) -> Task:
    """Returns the task with given images in place of its own degradation.

    Args:
        task: the task; it is not changed.
        degraded: degraded images [b, h, w, 3] in [-1, 1].
    """
    given = copy.copy(task)
    given.degrade = lambda real, keys, recipe: degraded
    return given


def step_recorder(task: Task) -> Callable[..., tuple[TrainState, dict[str, Array], Trace]]:
    """Returns a function that takes one training step and records it.

    Args:
        task: the task; it is not changed.

    Returns:
        A function (state, frozen, images, degraded=None, key=None) -> (state, metrics, trace),
        which is compiled once for each static part of a phase. `frozen` holds the variables of the
        frozen networks. `images` are clean, [b, h, w, 3], floats in [-1, 1] or uint8. `degraded`
        are degraded images in [-1, 1], so that another program can see the same; by default the
        task degrades `images`. The trace has the metrics as losses, the gradients that reach the
        optimizer and the trained parameters after the step.
    """
    task = copy.copy(task)
    transform = recording(task.optimizer.transform)
    task.optimizer = dataclasses.replace(task.optimizer, transform=transform)

    @jax.jit
    def take(state, frozen, images, degraded, key, phase):
        given = task if degraded is None else with_degraded(task, degraded)
        return given.train_step(state, frozen, images, key, phase)

    def step(state, frozen, images, degraded=None, key=None):
        key = make_key(0) if key is None else key
        phase = task.phase(int(state.step))
        after, metrics = take(_recorded(state), dict(frozen), images, degraded, key, phase)
        return _plain(after), metrics, _trace(task, state, after, metrics)

    return step


def _trace(
    task: Task, before: TrainState, after: TrainState, metrics: Mapping[str, Array]
) -> Trace:
    gradients = {task.network: after.opt_state.gradients}
    params = [{task.network: state.params} for state in (before, after)]
    if before.discriminator is not None:
        gradients["discriminator"] = after.discriminator.opt_state.gradients
        for found, state in zip(params, (before, after), strict=True):
            found["discriminator"] = state.discriminator.params
    return step_trace(metrics, gradients, *params)


def _recorded(state: TrainState) -> TrainState:
    """Returns a state whose optimizer states have room for gradients."""

    def room(params, opt_state):
        return Recorded(jax.tree.map(jnp.zeros_like, params), opt_state)

    judge = state.discriminator
    if judge is not None:
        judge = judge.replace(opt_state=room(judge.params, judge.opt_state))
    return state.replace(opt_state=room(state.ema_params, state.opt_state), discriminator=judge)


def _plain(state: TrainState) -> TrainState:
    """Returns a state without the gradients."""
    judge = state.discriminator
    if judge is not None:
        judge = judge.replace(opt_state=judge.opt_state.inner)
    return state.replace(opt_state=state.opt_state.inner, discriminator=judge)
