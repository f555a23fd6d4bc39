"""One training step of any task with its gradients, as a trace to compare with PyTorch's."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

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


def recorded_step(
    task: Task,
    state: TrainState,
    frozen: Mapping[str, PyTree],
    images: AnyArray,
    *,
    degraded: AnyArray | None = None,
    key: Key[Array, ""] | None = None,
) -> tuple[TrainState, dict[str, Array], Trace]:
    """Takes one training step and records it.

    Args:
        task: the task.
        state: the state before the step.
        frozen: variables of the frozen networks.
        images: clean images [b, h, w, 3], floats in [-1, 1] or uint8.
        degraded: degraded images, floats in [-1, 1], which another program can be given too;
            default the task's own degradation.
        key: key of the step; default key 0.

    Returns:
        The state after the step, its metrics, and the trace: metrics as losses, the gradients that
        reach the optimizer, and the trained parameters after the step.
    """
    task = copy.copy(task)
    transform = recording(task.optimizer.transform)
    task.optimizer = dataclasses.replace(task.optimizer, transform=transform)
    if degraded is not None:
        task.degrade = lambda real, keys, recipe: degraded
    step = int(state.step)

    @jax.jit
    def take(state, frozen, images, key):
        return task.train_step(state, frozen, images, key, task.phase(step))

    started = _with_gradients(state, state.ema_params)
    after, metrics = take(started, dict(frozen), images, make_key(0) if key is None else key)
    gradients = {task.network: after.opt_state.gradients}
    before_all, after_all = ({task.network: s.params} for s in (state, after))
    if state.discriminator is not None:
        gradients["discriminator"] = after.discriminator.opt_state.gradients
        before_all["discriminator"] = state.discriminator.params
        after_all["discriminator"] = after.discriminator.params
    trace = step_trace(metrics, gradients, before_all, after_all)
    return _without_gradients(after), metrics, trace


def _with_gradients(state: TrainState, trained: PyTree) -> TrainState:
    judge = state.discriminator
    if judge is not None:
        judge = judge.replace(opt_state=_zeros(judge.params, judge.opt_state))
    return state.replace(opt_state=_zeros(trained, state.opt_state), discriminator=judge)


def _zeros(params: PyTree, opt_state: PyTree) -> Recorded:
    return Recorded(jax.tree.map(jnp.zeros_like, params), opt_state)


def _without_gradients(state: TrainState) -> TrainState:
    judge = state.discriminator
    if judge is not None:
        judge = judge.replace(opt_state=judge.opt_state.inner)
    return state.replace(opt_state=state.opt_state.inner, discriminator=judge)
