"""The VQ-VAE's task learns with either codebook; its run is evaluated, exported and encodes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_vqvae

from codeformer_jax import convert
from codeformer_jax.checkpoints.trained import export_trained, load_trained
from codeformer_jax.data.precomputed_codes import Codes
from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.evaluate.run import evaluate_run
from codeformer_jax.priors import encode
from codeformer_jax.tasks import common, make_task
from codeformer_jax.train import loop


@pytest.fixture(scope="module")
def images():
    source = SyntheticFaces("train", 32, 8)
    return np.stack([source[i]["image"] for i in range(8)])


def take(task, state, images, steps):
    step, history = jax.jit(task.train_step), []
    for i in range(steps):
        key = jax.random.fold_in(jax.random.key(1), i)
        state, metrics = step(state, {}, images, key, task.phase(i))
        history.append(jax.device_get(metrics))
    return state, history


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_it_learns_with_either_codebook(images, ema_decay):
    config = tiny_vqvae().unlock()
    config.model.ema_decay = ema_decay
    config.optimizer.learning_rate = 2e-3
    task = make_task(config)
    state = jax.jit(task.init)(jax.random.key(0), images, None)
    after, history = take(task, state, images, 60)
    real = images / 127.5 - 1
    baseline = np.mean((real - real.mean(axis=(0, 1, 2))) ** 2)
    assert history[-1]["mse"] < 0.6 * min(baseline, history[0]["mse"])
    assert history[-1]["perplexity"] > 4
    assert ("quantize" in after.params) == (ema_decay is None)
    if ema_decay is not None:
        before, now = (s.collections["codebook"]["quantize"]["embedding"] for s in (state, after))
        assert not np.allclose(before, now)


def test_slices_of_a_batch_are_the_batch(images):
    config = tiny_vqvae().unlock()
    config.data.batch_size = 8
    results = []
    for slices in (1, 2):
        config.optimizer.accumulate = slices
        task = make_task(config)
        state = jax.jit(task.init)(jax.random.key(0), images, None)
        results.append(take(task, state, images, 2)[0])
    one, other = (jax.tree.leaves((s.params, s.collections)) for s in results)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("vqvae") / "run"
    return workdir, loop.train(tiny_vqvae(), workdir)


def test_a_run_reports_error_perplexity_and_bits(run):
    workdir, scores = run
    assert scores["code_bits"] == pytest.approx(np.log2(16))
    # 64 codes of 4 bits for 32 x 32 x 3 values.
    assert scores["bits_per_dim"] == pytest.approx(64 * 4 / 3072)
    assert 1 <= scores["perplexity"] <= 16
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "eval/mse" in line][-1]
    assert last["eval/mse"] == pytest.approx(scores["mse"])
    assert scores["mse"] == pytest.approx(4 * 10 ** (-scores["psnr"] / 10), rel=0.3)
    evaluation = evaluate_run(tiny_vqvae(), workdir)
    assert evaluation.scores["reconstruction"]["psnr"].mean() == pytest.approx(
        scores["psnr"], abs=0.05
    )


def test_a_run_goes_on_and_is_exported(run, tmp_path):
    workdir, _ = run
    export_trained(workdir, tmp_path / "vqvae.safetensors")
    network, module, variables = convert.load_model(tmp_path / "vqvae.safetensors")
    trained = load_trained(workdir)
    assert (network, module) == ("vqvae", trained.module)
    real = jnp.zeros((1, 32, 32, 3))
    np.testing.assert_array_equal(
        module.apply(variables, real).image, trained.module.apply(trained.variables, real).image
    )
    config = tiny_vqvae(steps=6).unlock()
    config.init_from = str(tmp_path / "vqvae.safetensors")
    config.steps = 1
    loop.train(config, tmp_path / "more")


def test_its_codes_are_encoded_once_for_all(run, tmp_path):
    workdir, _ = run
    description = encode.encode_dataset(workdir, tmp_path / "codes", mesh="data:1")
    assert (description.grid, description.codebook_size) == ((8, 8), 16)
    trained = load_trained(workdir)
    face = SyntheticFaces("train", 32, 32)[3]
    codes = Codes(tmp_path / "codes")[3]
    real = common.from_uint8(jnp.asarray(face["image"][None]))
    for image, found in zip((real, real[:, :, ::-1]), codes, strict=True):
        expected = trained.module.apply(trained.variables, image, method="encode").indices
        assert np.mean(expected[0] == found) > 0.98


def test_a_teacher_of_another_kind_is_refused(run, stages, tmp_path):
    config = tiny_vqvae().unlock()
    config.init_from = str(stages[0] / "vqgan")
    with pytest.raises(ValueError, match="holds a vqgan; task 'vqvae' starts from a vqvae"):
        loop.train(config, tmp_path / "run")
