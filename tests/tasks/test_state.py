"""Optimizer, schedules and moving averages against their formulas."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from codeformer_jax.tasks.state import make_optimizer, update_ema


def settings(**given):
    defaults = {
        "learning_rate": 1.0,
        "betas": (0.9, 0.99),
        "schedule": "constant",
        "final_learning_rate": 0.1,
        "milestones": (40, 45),
        "gamma": 0.5,
        "warmup_steps": 0,
        "clip_norm": 0.0,
    }
    return ml_collections.ConfigDict({**defaults, **given})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {0: 1.0, 99: 1.0}),
        # eta_min + (base - eta_min) (1 + cos(pi t / T)) / 2
        ({"schedule": "cosine"}, {0: 1.0, 50: 0.55, 100: 0.1, 200: 0.1}),
        ({"schedule": "multistep"}, {0: 1.0, 39: 1.0, 40: 0.5, 44: 0.5, 45: 0.25}),
        ({"warmup_steps": 10}, {0: 0.1, 4: 0.5, 9: 1.0, 20: 1.0}),
    ],
)
def test_schedules(given, expected):
    optimizer = make_optimizer(settings(**given), 100)
    for step, rate in expected.items():
        np.testing.assert_allclose(optimizer.learning_rate(jnp.int32(step)), rate, rtol=1e-6)


def walk(optimizer, steps, start=1.0):
    """Values of parameters that Adam moves by the learning rate: their gradient is constant."""
    params = {"kernel": jnp.float32(start), "bias": jnp.float32(start)}
    state, seen = optimizer.init(params), [params]
    for step in range(steps):
        gradients = {"kernel": jnp.float32(1), "bias": jnp.float32(1)}
        params, state = optimizer.apply(gradients, state, params, jnp.int32(step))
        seen.append(params)
    return {name: np.array([p[name] for p in seen]) for name in params}


def test_steps_follow_warmup_and_milestones():
    given = {"schedule": "multistep", "milestones": (4, 6), "warmup_steps": 3}
    values = walk(make_optimizer(settings(**given), 8), 8)["bias"]
    rates = [1 / 3, 2 / 3, 1, 1, 0.5, 0.5, 0.25, 0.25]
    np.testing.assert_allclose(-np.diff(values), rates, rtol=1e-5)


def test_adamw_decays_kernels_apart_from_the_gradient():
    given = {"name": "adamw", "weight_decay": 0.1, "learning_rate": 0.01}
    values = walk(make_optimizer(settings(**given), 5), 5, start=2.0)
    expected = [2.0]
    for _ in range(5):
        # torch.optim.AdamW: p <- p - lr * decay * p, then Adam's step of size lr.
        expected.append(expected[-1] * (1 - 0.01 * 0.1) - 0.01)
    np.testing.assert_allclose(values["kernel"], expected, rtol=1e-6)
    np.testing.assert_allclose(values["bias"], 2.0 - 0.01 * np.arange(6), rtol=1e-6)


def test_a_weight_decay_without_effect_is_refused():
    with pytest.raises(ValueError, match=r"weight_decay=0.1 has no effect with optimizer.name='a"):
        make_optimizer(settings(weight_decay=0.1), 100)


def test_adam_step_is_the_published_formula():
    optimizer = make_optimizer(settings(learning_rate=0.01), 100)
    params = {"a": jnp.array([1.0, -2.0])}
    gradients = [np.array([0.3, -0.1]), np.array([-0.2, 0.4])]
    state = optimizer.init(params)
    m = v = np.zeros(2)
    expected = np.array([1.0, -2.0])
    for t, g in enumerate(gradients, 1):
        step = jnp.int32(t - 1)
        params, state = optimizer.apply({"a": jnp.float32(g)}, state, params, step)
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        expected = expected - 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
    np.testing.assert_allclose(params["a"], expected, rtol=1e-6)


def test_clipping_bounds_the_norm_before_adam():
    clipped = make_optimizer(settings(clip_norm=1.0), 100)
    params = {"a": jnp.zeros(2)}
    _, state = clipped.apply(
        {"a": jnp.array([30.0, 40.0])}, clipped.init(params), params, jnp.int32(0)
    )
    moments = [x for x in jax.tree.leaves(state) if x.shape == (2,)]
    np.testing.assert_allclose(moments[0], [0.06, 0.08], rtol=1e-5)


@pytest.mark.parametrize(
    ("step", "warmup", "decay"), [(0, False, 0.9), (0, True, 0.1), (980, True, 0.9)]
)
def test_moving_average(step, warmup, decay):
    ema = update_ema(
        {"a": jnp.float32(1)}, {"a": jnp.float32(3)}, jnp.int32(step), decay=0.9, warmup=warmup
    )
    np.testing.assert_allclose(ema["a"], decay * 1 + (1 - decay) * 3, rtol=1e-6)


def adam_by_hand(values, gradients, rate=0.01, decay=0.0, eps=1e-8):
    """PyTorch's AdamW of one parameter; a gradient of None leaves parameter, moments and count."""
    value, m, v, t = values, 0.0, 0.0, 0
    for g in gradients:
        if g is not None:
            t += 1
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
            moved = rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + eps)
            value = value * (1 - rate * decay) - moved
    return value


@pytest.mark.parametrize("advance", ["reached", "all"])
@pytest.mark.parametrize("reached", ["110010110", "000110010"])
def test_parameters_that_no_loss_reaches(advance, reached):
    given = {"learning_rate": 0.01, "name": "adamw", "weight_decay": 0.1, "clip_norm": 100.0}
    optimizer = make_optimizer(settings(**given, advance=advance), 100)
    params = {name: {"kernel": jnp.float32(2.0)} for name in ("always", "fusion")}
    state, taken, gradients = optimizer.init(params), 0, []
    for i, flag in enumerate(reached):
        g = {name: {"kernel": jnp.float32(0.5 + 0.1 * i)} for name in params}
        if flag == "0":
            del g["fusion"]
        before = params["fusion"], jax.tree.leaves(state[1].mu["fusion"])
        late = (("fusion",), jnp.int32(taken))
        params, state = optimizer.apply(g, state, params, jnp.int32(i), late=late)
        if flag == "0" and advance == "reached":
            assert (params["fusion"], jax.tree.leaves(state[1].mu["fusion"])) == before
        taken += flag == "1"
        missing = None if advance == "reached" else 0.0
        gradients.append(0.5 + 0.1 * i if flag == "1" else missing)
    np.testing.assert_allclose(
        params["fusion"]["kernel"], adam_by_hand(2.0, gradients, decay=0.1), rtol=1e-6
    )
    every = [0.5 + 0.1 * i for i in range(len(reached))]
    np.testing.assert_allclose(
        params["always"]["kernel"], adam_by_hand(2.0, every, decay=0.1), rtol=1e-6
    )
