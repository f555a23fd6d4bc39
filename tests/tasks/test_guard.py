"""A non-finite step changes nothing but the step number, whatever the task."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config, tiny_gpt, tiny_pixelcnn, tiny_vqvae

from codeformer_jax.tasks import guard, make_task
from codeformer_jax.tasks.state import TrainState

COUNTS = {".step", ".skipped", ".skipped_in_row"}


def with_restarts(config):
    config = config.unlock()
    config.model.update(ema_decay=None, restart_below=0.1)
    return config.lock()


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        tiny_config("vqgan"),
        with_restarts(tiny_config("vqgan")),
        tiny_config("code_prediction"),
        tiny_config("restoration"),
        tiny_vqvae(),
        with_restarts(tiny_vqvae()),
        tiny_pixelcnn(),
        tiny_gpt(),
    ],
    ids=lambda config: config.task,
)
def test_all_that_a_task_changes_waits_for_the_decision(config, monkeypatch):
    """Where the decision is against the step, its state is that before it: the very same arrays."""
    task = make_task(config)
    images = jax.ShapeDtypeStruct((4, 32, 32, 3), np.uint8)
    state = jax.eval_shape(lambda *a: task.init(*a, None), jax.random.key(0), images)
    frozen = {}
    if task.needs_teacher:
        real = jnp.zeros((1, 32, 32, 3))
        frozen["teacher"] = jax.eval_shape(task.teacher.init, jax.random.key(1), real)

    def changed():
        """State's leaves that are not passed through."""

        def step(state, frozen, images):
            return task.train_step(state, frozen, images, jax.random.key(2), task.phase(0))[0]

        traced = jax.make_jaxpr(step)(state, frozen, images).jaxpr
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state)]
        pairs = zip(paths, traced.invars[: len(paths)], traced.outvars, strict=True)
        return {path for path, before, after in pairs if before is not after}

    assert changed() > COUNTS
    monkeypatch.setattr(guard, "update_where", lambda condition, update, state: state)
    assert changed() == COUNTS


@pytest.mark.parametrize("name", ["loss", "grad_norm_encoder", "grad_norm_discriminator", "d_real"])
def test_every_loss_and_norm_decides_and_no_other_metric_does(name):
    @jax.jit
    def step(state, value):
        metrics = {"loss": 1.0, "grad_norm_encoder": 2.0, "grad_norm_discriminator": 3.0}
        metrics |= {"d_real": 0.5, "adaptive_ratio": jnp.inf, name: value}
        metrics = {key: jnp.asarray(x, jnp.float32) for key, x in metrics.items()}
        return guard.take_step(state, metrics, lambda state: jax.tree.map(lambda x: x + 1, state))

    count = jnp.zeros((), jnp.int32)
    state = TrainState(count, {"a": jnp.ones(2)}, {}, {}, {}, jnp.ones(3), count, count)
    for value, skipped in ((jnp.inf, 1), (jnp.nan, 1), (0.0, 0)):
        after, metrics = step(state, value)
        assert metrics["skipped"] == skipped
        assert float(after.params["a"][0]) == 2 - skipped
        assert (int(after.step), int(after.skipped_in_row)) == (1, skipped)
