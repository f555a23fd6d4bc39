"""Parameters that each task trains, and those that it leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stepping import changed, run, start
from tiny import tiny_config

from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.tasks import common, make_task
from codeformer_jax.tasks.code_task import CODE_PATH
from configs import codeformer_stage2, vqgan


@pytest.fixture(scope="module")
def images():
    source = SyntheticFaces("train", 32, 8)
    return np.stack([source[i]["image"] for i in range(8)])


def test_unknown_task_names_the_known_ones():
    config = tiny_config("vqgan").unlock()
    config.task = "vae"
    with pytest.raises(
        ValueError, match=r"config.task='vae' is unknown; expected one of .*restoration"
    ):
        make_task(config)


@pytest.mark.slow
@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_stage1_learns_and_its_discriminator_waits_for_its_start(images, ema_decay):
    config = tiny_config("vqgan", steps=40).unlock()
    config.model.ema_decay = ema_decay
    config.loss.gan_start = 25
    task, state, frozen = start(config, images)
    alone, first = run(task, state, frozen, images, 25)
    assert not changed({"d": state.discriminator}, {"d": alone.discriminator})
    after, then = run(task, alone, frozen, images, 3)
    assert not {"gan", "d_real"} & first[-1].keys()
    assert {"gan", "d_real", "d_fake", "adaptive_weight"} <= then[0].keys()
    mean = images.mean(axis=(0, 1, 2)) / 127.5 - 1
    baseline = np.abs(images / 127.5 - 1 - mean).mean()
    assert then[-1]["l1"] < 0.8 * min(baseline, first[0]["l1"])
    assert int(after.step) == 28
    embedding = {"quantize"} if ema_decay is None else set()
    assert changed(state.params, after.params) == {"encoder", "generator"} | embedding
    if ema_decay is not None:
        assert changed(state.collections, after.collections) == {"codebook"}


@pytest.mark.slow
def test_stage2_trains_encoder_and_transformer_only(images):
    task, state, frozen = start(tiny_config("code_prediction", steps=20), images)
    after, history = run(task, state, frozen, images, 20)
    trained = set(common.select(state.params, CODE_PATH))
    assert changed(state.params, after.params) == trained
    assert set(state.params) - trained == {
        "quantize",
        "generator",
        "fuse_convs_dict_16",
        "fuse_convs_dict_32",
    }
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["cross_entropy"] < np.log(16)


def test_published_stage1_and_stage2_phases():
    task = make_task(vqgan.get_config())
    assert [task.phase(step).gan for step in (0, 29_999, 30_000)] == [False, False, True]
    task = make_task(codeformer_stage2.get_config())
    rates = [float(task.optimizer.learning_rate(jnp.int32(s))) for s in (0, 400_001, 450_001)]
    np.testing.assert_allclose(rates, [1e-4, 5e-5, 2.5e-5], rtol=1e-6)


def test_starting_from_another_network_lists_what_differs(images):
    _, state, _ = start(tiny_config("vqgan"), images)
    config = tiny_config("code_prediction").unlock()
    config.model.emb_dim = 4
    with pytest.raises(
        ValueError, match=r"quantize/embedding: shape \(16, 8\), expected \(16, 4\)"
    ):
        start(config, images, previous=state.variables())
    with pytest.raises(ValueError, match=r"train stage II \(code_prediction\) first"):
        start(tiny_config("restoration"), images, previous=state.variables())
    with pytest.raises(ValueError, match="generator: missing"):
        common.transplant(state.params, {"encoder": state.params["encoder"]}, state.params)


def test_a_codeformer_of_other_depth_is_refused(images):
    _, state, _ = start(tiny_config("code_prediction"), images)
    for layers, message in ((2, "ft_layers_1: missing"), (0, "n_layers=0 must be a whole")):
        config = tiny_config("code_prediction").unlock()
        config.codeformer.n_layers = layers
        with pytest.raises(ValueError, match=message):
            start(config, images, previous=state.variables())


def test_stage2_starts_from_stage1_with_its_averaged_codebook(images):
    _, state, _ = start(tiny_config("vqgan"), images)
    variables = state.variables()
    _, student, _ = start(tiny_config("code_prediction"), images, previous=variables)
    codebook = variables["codebook"]["quantize"]["embedding"]
    np.testing.assert_array_equal(student.params["quantize"]["embedding"], codebook)
    assert not changed({"generator": state.params["generator"]}, student.params)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["code_prediction", "restoration"])
def test_known_codes_give_the_teachers_step_without_the_teacher(images, stage):
    """Its forward is not in the compiled step, its parameters are not among the arguments."""
    task, state, frozen = start(tiny_config(stage), images)

    def encode(variables, images):
        return task.teacher.apply(variables, common.from_uint8(images), method="encode").indices

    teacher = jax.jit(encode).lower(frozen["teacher"], images).compile()
    codes = teacher(frozen["teacher"], images)
    arguments = (state, frozen, images, jax.random.key(1), task.phase(0))
    taught = jax.jit(task.train_step).lower(*arguments).compile()
    known = jax.jit(task.train_step).lower(*arguments, codes=codes).compile()

    (after, metrics), (known_after, known_metrics) = (
        taught(*arguments),
        known(*arguments, codes=codes),
    )
    assert metrics.keys() == known_metrics.keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(known_metrics[name], value, rtol=1e-5, err_msg=name)
    # The first step of Adam is the gradient's sign, which rounding decides where it is nearly zero.
    rate = float(task.optimizer.learning_rate(state.step))
    other = jax.tree.map(lambda a, b: np.abs(a - b) > rate, after.params, known_after.params)
    assert np.mean(np.concatenate([x.ravel() for x in jax.tree.leaves(other)])) < 1e-3
    wrong_metrics = known(*arguments, codes=(codes + 1) % 16)[1]
    assert abs(wrong_metrics["loss"] - metrics["loss"]) > 1e-3 * metrics["loss"]

    flops, sizes = zip(
        *((c.cost_analysis()["flops"], c.memory_analysis()) for c in (taught, known)), strict=True
    )
    assert flops[0] - flops[1] > 0.95 * teacher.cost_analysis()["flops"]
    encoder = sum(x.nbytes for x in jax.tree.leaves(frozen["teacher"]["params"]["encoder"]))
    saved = sizes[0].argument_size_in_bytes - sizes[1].argument_size_in_bytes
    assert saved == encoder - codes.nbytes
