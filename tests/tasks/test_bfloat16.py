"""bfloat16 is the dtype of products alone: what has to be float32 is, in every task's step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn_state
from tiny import tiny_config

from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.nn import LPIPS
from codeformer_jax.tasks import make_task

STAGES = ("vqgan", "code_prediction", "restoration")
# Sums, roots, exponentials and choices: norms' statistics, softmax, losses, optimizer, codes.
PRECISE = {
    "argmax", "argmin", "reduce_max", "exp", "exp2", "log", "log1p", "sqrt", "rsqrt", "cumsum",
    "scatter-add", "square",
}  # fmt: skip


@pytest.fixture(scope="module")
def images():
    source = SyntheticFaces("train", 32, 8)
    return np.stack([source[i]["image"] for i in range(4)])


@functools.cache
def config_of(stage, dtype):
    config = tiny_config(stage, steps=20).unlock()
    config.model.dtype = dtype
    if stage != "code_prediction":
        config.loss.perceptual_weight = 1.0
    return config


def arguments(config, images):
    """Task and arguments of its step as shapes."""
    task = make_task(config)
    state = jax.eval_shape(lambda *a: task.init(*a, None), jax.random.key(0), images)
    frozen = {}
    if task.needs_teacher:
        names = ("encoder", "quantize", "generator")
        frozen["teacher"] = {"params": {name: state.params[name] for name in names}}
    if config.loss.get("perceptual_weight"):
        pixels = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        frozen["lpips"] = jax.eval_shape(LPIPS().init, jax.random.key(0), pixels, pixels)
    return task, state, frozen


def equations(jaxpr):
    """Of a jaxpr and of all that it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                called = getattr(inner, "jaxpr", inner)
                if hasattr(called, "eqns"):
                    yield from equations(called)


def traced(stage, dtype, images):
    task, state, frozen = arguments(config_of(stage, dtype), images)
    step = lambda *a: task.train_step(*a, task.phase(0))  # noqa: E731
    jaxpr = jax.make_jaxpr(step)(state, frozen, images, jax.random.key(0))
    return [*equations(jaxpr.jaxpr)], jaxpr, state


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_products_are_bfloat16_and_everything_delicate_is_float32(images, stage):
    found, jaxpr, state = traced(stage, "bfloat16", images)
    half, distances = jnp.bfloat16, []
    for equation in found:
        name = equation.primitive.name
        dtypes = {v.aval.dtype for v in equation.invars if hasattr(v.aval, "dtype")}
        assert not (name in PRECISE and half in dtypes), equation
        if name == "reduce_sum" and half in dtypes:
            # Of bfloat16 only what a bias or a broadcast gets back from its products.
            assert "transpose" in str(equation.source_info.name_stack), equation
        # Attention names an algorithm instead: bfloat16 products, summed in float32.
        if name == "dot_general" and "HIGHEST" in str(equation.params["precision"]):
            distances.append(equation)
            assert dtypes == {jnp.dtype(jnp.float32)}, equation
    assert distances
    # Parameters, averages, optimizer and metrics go in and come out as float32.
    given = {x.dtype for x in jax.tree.leaves(state)}
    assert {v.aval.dtype for v in jaxpr.jaxpr.outvars} == given == {np.dtype("f4"), np.dtype("i4")}

    def products(equations):
        convolutions = [e for e in equations if e.primitive.name == "conv_general_dilated"]
        return [e for e in convolutions if e.outvars[0].aval.dtype == half], convolutions

    bf16, every = products(found)
    # LPIPS's heads and the blur of the degradation stay; all networks have changed.
    assert len(bf16) > 0.8 * len(every)
    assert not products(traced(stage, "float32", images)[0])[0]


def test_every_network_follows_the_models_dtype():
    for stage in STAGES:
        task = make_task(config_of(stage, "bfloat16"))
        networks = [task.module]
        if task.needs_teacher:
            networks.append(task.teacher)
        if stage != "code_prediction":
            networks += [task.image_losses.lpips, task.image_losses.discriminator]
        assert {jnp.dtype(n.dtype) for n in networks} == {jnp.dtype(jnp.bfloat16)}
    config = config_of("vqgan", "bfloat16").copy_and_resolve_references()
    config.discriminator.dtype = "float32"
    assert make_task(config).image_losses.discriminator.dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage", [pytest.param("vqgan", marks=pytest.mark.slow), "code_prediction", "restoration"]
)
def test_twenty_steps_lower_the_loss_as_float32_does(images, stage):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        config = config_of(stage, dtype).copy_and_resolve_references()
        if stage != "code_prediction":
            config.loss.update(perceptual_weight=0.0, gan_start=100)
        task = make_task(config)
        if dtype == "float32":
            start = drawn_state(task, images)
            names = ("encoder", "quantize", "generator")
            teacher = {name: start.params.get(name) for name in names}
        frozen = {"teacher": {"params": teacher}} if task.needs_teacher else {}
        step, state, losses[dtype] = jax.jit(task.train_step), start, []
        for i in range(20):
            key = jax.random.fold_in(jax.random.key(1), i)
            # Lowering JAX's attention promotes; that our own code does not is checked above.
            with jax.numpy_dtype_promotion("standard"):
                state, metrics = step(state, frozen, images, key, task.phase(i))
            losses[dtype].append(float(metrics["loss"]))
    first, last = np.array(list(losses.values()))[:, [0, -1]].T
    np.testing.assert_allclose(first[1], first[0], rtol=0.02)
    assert np.all(last < 0.95 * first)
    np.testing.assert_allclose(first[1] - last[1], first[0] - last[0], rtol=0.2)
