"""Every task's step under JAX's global settings and under `model.precision`."""

import concurrent.futures
import functools
import re

import jax
import pytest
from tiny import tiny_config, tiny_gpt, tiny_pixelcnn, tiny_vqvae

from codeformer_jax.system import parallel
from codeformer_jax.tasks import make_task
from codeformer_jax.train.plan import abstract_arguments, distinct_phases
from codeformer_jax.train.step import make_step

PRODUCT = re.compile(r"stablehlo\.(?:dot_general|convolution)\b.*")
FULL = re.compile(r"precision = \[HIGHEST, HIGHEST\]|precision_config = \[.*HIGHEST.*HIGHEST.*\]")


def gpt_of_degraded():
    config = tiny_gpt().unlock()
    config.gpt.update(condition="codes", dropout=0.1)
    return config


def all_losses(stage):
    config = tiny_config(stage).unlock()
    config.loss.perceptual_weight = 1.0
    return config


CONFIGS = {
    "vqgan": functools.partial(all_losses, "vqgan"),
    "code_prediction": functools.partial(tiny_config, "code_prediction"),
    "restoration": functools.partial(all_losses, "restoration"),
    "vqvae": tiny_vqvae,
    "pixelcnn": tiny_pixelcnn,
    "pixels": functools.partial(tiny_pixelcnn, "pixels"),
    "gpt": gpt_of_degraded,
}


def lowered(config, *functions):
    """StableHLO of every variant of the step, and of other functions of a task, in a new thread.

    JAX's settings by `with` are those of a thread, and a run compiles in another one.
    """
    config = config.copy_and_resolve_references().unlock()
    mesh = parallel.make_mesh("data:1", jax.devices()[:1])
    task = make_task(config)
    state, frozen, inputs, key = abstract_arguments(task, config, mesh)
    step = make_step(task, mesh, jax.tree.map(lambda x: x.sharding, state))
    keys = jax.eval_shape(lambda key: jax.random.split(key, config.data.batch_size), key)
    arguments = {
        "init": (key, inputs["image"], None),
        "eval_step": (state, frozen, inputs["image"], keys),
        "reconstruct": (frozen.get("teacher"), inputs["image"]),
    }

    def lower():
        phases = distinct_phases(task, config.steps)
        texts = [step.lower(state, frozen, inputs, key, phase).as_text() for *_, phase in phases]
        others = [jax.jit(getattr(task, f)).lower(*arguments[f]).as_text() for f in functions]
        return texts + others

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(lower).result()


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_precision_reaches_every_product_and_images_keep_threefry(name):
    config = CONFIGS[name]().unlock()
    config.model.precision = "highest"
    functions = ["init", "eval_step"]
    if make_task(config).needs_teacher:
        functions.append("reconstruct")
    jax.config.update("jax_default_prng_impl", "rbg")
    try:
        texts = lowered(config, *functions)
    finally:
        jax.config.update("jax_default_prng_impl", "threefry2x32")
    for text, what in zip(reversed(texts), [*reversed(functions), "step", "step"], strict=False):
        products = PRODUCT.findall(text)
        assert products or what == "init"
        assert [product for product in products if not FULL.search(product)] == [], what
        assert "rng_bit_generator" not in text, what


def test_without_precision_products_are_the_platforms():
    (text, *_) = lowered(tiny_config("code_prediction"))
    assert [product for product in PRODUCT.findall(text) if not FULL.search(product)]


def test_unknown_precision():
    config = tiny_config("vqgan").unlock()
    config.model.precision = "float32"
    with pytest.raises(ValueError, match=r"model\.precision='float32' must be one of default"):
        make_task(config)


def test_a_config_without_precision_is_an_older_runs():
    config = tiny_config("vqgan").unlock()
    del config.model.precision
    assert "train_step" not in vars(make_task(config))


def test_dropout_alone_may_have_other_keys():
    config = gpt_of_degraded()
    config.train.prng = "rbg"
    (text,) = lowered(config)
    assert "rng_bit_generator" in text
    config.gpt.dropout = 0.0
    (text,) = lowered(config)
    assert "rng_bit_generator" not in text


@pytest.mark.parametrize("name", CONFIGS)
def test_with_64_bits_switched_on_the_state_stays_in_32(name):
    config = CONFIGS[name]()
    with jax.enable_x64():
        mesh = parallel.make_mesh("data:1", jax.devices()[:1])
        task = make_task(config)
        arguments = abstract_arguments(task, config, mesh)
        step = make_step(task, mesh, jax.tree.map(lambda x: x.sharding, arguments[0]))
        phase = task.phase(0)
        state, metrics = step.eval_shape(*arguments, phase)
    for tree in (arguments[0], state, metrics):
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(tree)} <= {"float32", "int32"}
    shapes = [jax.tree.map(lambda x: x.shape, tree) for tree in (arguments[0], state)]
    assert shapes[0] == shapes[1]
