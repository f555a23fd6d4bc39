"""Groups of a batch: the steps of data-parallel processes that share nothing but gradients."""

import jax
import numpy as np
import optax
import pytest
from drawn import drawn_state
from linear import relative_error
from tiny import tiny_config

from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.tasks import make_task
from codeformer_jax.tasks.state import Optimizer


def make(stage, groups):
    """A task whose step is linear in the gradients, and whose images are not degraded."""
    config = tiny_config(stage).unlock()
    config.model.update(ema_decay=None, restart_below=0.0)
    config.data.batch_size = 8
    config.loss.update(statistics_groups=groups, adaptive_maximum=1e4)
    if stage == "restoration":
        config.codeformer.fusion_zero_init = False
    task = make_task(config)
    task.optimizer = Optimizer(optax.identity(), lambda step: 0.1 + 0 * step)
    if stage == "restoration":
        task.degrade = lambda real, keys, recipe: 0.9 * real
    return task


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["vqgan", "restoration"])
def test_two_groups_step_like_two_processes_that_average_gradients(stage):
    source = SyntheticFaces("train", 32, 8)
    images = np.stack([source[i]["image"] for i in range(8)])
    images[4:] //= 3  # Other statistics than those of the first half.
    grouped, whole = make(stage, 2), make(stage, 1)
    state = drawn_state(whole, images)
    frozen = {}
    if whole.needs_teacher:
        frozen = {"teacher": {"params": state.params}}

    def changes(task, images):
        step = jax.jit(task.train_step)
        after, metrics = step(state, frozen, images, jax.random.key(1), task.phase(0))
        difference = jax.tree.map(
            lambda a, b: a - b,
            (after.params, after.discriminator),
            (state.params, state.discriminator),
        )
        return jax.device_get((difference, metrics))

    have, metrics = changes(grouped, images)
    halves = [changes(whole, half) for half in (images[:4], images[4:])]
    want = jax.tree.map(lambda a, b: (a + b) / 2, *(difference for difference, _ in halves))
    for mine, theirs in zip(have, want, strict=True):
        assert relative_error(mine, theirs) < 1e-5
    for name in ("loss", "adaptive_weight", "adaptive_ratio", "d_real", "d_fake"):
        mean = np.mean([each[name] for _, each in halves])
        np.testing.assert_allclose(metrics[name], mean, rtol=1e-5, err_msg=name)
    # One weight for all would be another step.
    first, second = (each["adaptive_weight"] for _, each in halves)
    assert abs(first - second) > 0.01 * second


def test_groups_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ValueError, match=r"statistics_groups=3 does not divide data\.batch_size=8"):
        make("vqgan", 3)
    with pytest.raises(
        ValueError, match="statistics_groups=0 must be a whole number of at least 1"
    ):
        make("restoration", 0)
