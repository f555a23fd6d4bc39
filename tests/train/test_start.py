"""The networks that a run starts from."""

import jax
import numpy as np
import pytest
from tiny import tiny_config

from codeformer_jax import convert
from codeformer_jax.checkpoints.trained import load_discriminator
from codeformer_jax.convert.networks import expected_variables
from codeformer_jax.nn import STLPIPS, PatchDiscriminator
from codeformer_jax.tasks import make_task
from codeformer_jax.train import loop
from codeformer_jax.train.run import Run
from codeformer_jax.train.start import check_teacher, prepare


def first_state(config, workdir):
    """Returns the state before the first step; writes nothing."""
    return Run(config.lock(), workdir).init()


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_a_discriminator_comes_from_a_workdir_or_a_file(stages, tmp_path):
    root, _ = stages
    found = load_discriminator(root / "vqgan")
    file = tmp_path / "d.safetensors"
    convert.save_model(file, "discriminator", PatchDiscriminator(ndf=4, n_layers=1), found)
    assert_same(load_discriminator(file), found)
    config = tiny_config("restoration").unlock()
    config.init_from = str(root / "code_prediction")
    config.init_discriminator_from = str(file)
    state = first_state(config, tmp_path / "run")
    assert_same(state.discriminator.params, found["params"])
    assert_same(state.discriminator.batch_stats, found["batch_stats"])
    config = tiny_config("vqgan").unlock()
    config.init_discriminator_from = str(root / "vqgan")
    assert_same(first_state(config, tmp_path / "run").discriminator.params, found["params"])
    assert not (tmp_path / "run").exists()
    # A run that goes on has its own; the setting is not read again.
    assert prepare(make_task(config), config, root / "vqgan").discriminator is None


@pytest.mark.slow
def test_what_holds_no_discriminator_is_refused(stages, tmp_path):
    root, _ = stages
    config = tiny_config("restoration").unlock()
    config.init_from = str(root / "code_prediction")
    for path, error, message in (
        (tmp_path / "none", FileNotFoundError, "none does not exist: expected a model file or a"),
        (root / "code_prediction", ValueError, "task 'code_prediction', which has no discrimin"),
        (root / "restoration" / "teacher.safetensors", ValueError, "holds a vqgan, not a discr"),
    ):
        config.init_discriminator_from = str(path)
        with pytest.raises(error, match=message):
            loop.train(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    config.init_discriminator_from = str(root / "vqgan")
    config.discriminator.ndf = 8
    with pytest.raises(ValueError, match="init_discriminator_from: the discriminator does not fit"):
        first_state(config, tmp_path / "run")


def test_a_teacher_without_a_codebook_of_parameters_is_accepted():
    check_teacher(20.0, {"params": {"encoder": {}}}, None, 10.0)
    with pytest.raises(ValueError, match="under the floor"):
        check_teacher(9.0, {"params": {"encoder": {}}}, None, 10.0)


def test_the_perceptual_weights_may_be_those_of_st_lpips(tmp_path):
    module = STLPIPS()
    zeros = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype), expected_variables("st_lpips", module)
    )
    file = tmp_path / "st_lpips.safetensors"
    convert.save_model(file, "st_lpips", module, zeros)
    config = tiny_config("vqgan").unlock()
    config.loss.update(perceptual_weight=1.0, lpips=str(file))
    start = prepare(make_task(config), config, tmp_path / "run")
    assert_same(start.frozen["lpips"], zeros)
    convert.save_model(file, "discriminator", *discriminator())
    with pytest.raises(ValueError, match="holds a discriminator; expected weights of lpips or st_"):
        prepare(make_task(config), config, tmp_path / "run")


def discriminator():
    module = PatchDiscriminator(ndf=4, n_layers=1)
    like = expected_variables("discriminator", module)
    return module, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
