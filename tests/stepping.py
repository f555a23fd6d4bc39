"""Tasks started and stepped in a process, and what their steps changed."""

import jax
import jax.numpy as jnp
import numpy as np

from codeformer_jax.tasks import make_task

_STARTED = {}


def start(config, images, previous=None):
    """Task, state and frozen networks: the teacher is the student's own random VQGAN."""
    task = make_task(config)
    # A state follows from the networks alone; to compile `init` takes longer than most tests.
    sections = (str(config.get(name)) for name in ("model", "codeformer", "discriminator"))
    known = (*sections, config.get("codebook_init"))
    state = _STARTED.get(known) if previous is None else None
    if state is None:
        state = jax.jit(task.init)(jax.random.key(0), images, previous)
    if previous is None:
        _STARTED[known] = state
    frozen = {}
    if task.needs_teacher:
        teacher = {name: state.params[name] for name in ("encoder", "quantize", "generator")}
        frozen = {"teacher": {"params": jax.tree.map(jnp.copy, teacher)}}
    return task, state, frozen


def run(task, state, frozen, images, steps):
    step = jax.jit(task.train_step)
    history = []
    for i in range(int(state.step), int(state.step) + steps):
        key = jax.random.fold_in(jax.random.key(1), i)
        state, metrics = step(state, frozen, images, key, task.phase(i))
        history.append(jax.device_get(metrics))
        assert all(np.isfinite(v) for v in history[-1].values()), (i, history[-1])
    return state, history


def changed(before, after):
    """Top-level names of parameters of which anything changed."""
    return {
        name
        for name in before
        if any(
            np.any(a != b)
            for a, b in zip(
                jax.tree.leaves(before[name]), jax.tree.leaves(after[name]), strict=True
            )
        )
    }
