"""Config of an evaluation: the run's own, a given one, and overrides."""

import json

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags
from tiny import tiny_config

from codeformer_jax.checkpoints.trained import load_teacher, load_trained
from codeformer_jax.checkpoints.workdir import CONFIG_FILE
from codeformer_jax.evaluate import run
from codeformer_jax.evaluate.own_config import own_config
from codeformer_jax.evaluate.run import evaluate_run, report_folder
from codeformer_jax.tasks import common, make_task
from codeformer_jax.tasks.state import TrainState
from configs import vqgan


def same_scores(a, b):
    assert list(a) == list(b)
    for row in a:
        for metric in ("psnr", "ssim"):
            np.testing.assert_allclose(a[row][metric], b[row][metric], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("adain", [True, False])
def test_held_out_scores_in_training_have_its_adain(runs, adain):
    trained = load_trained(runs / "restoration")
    trained.config.eval.adain = adain
    task, params = make_task(trained.config), trained.variables["params"]
    state = TrainState.first(
        params, common.select(params, task.trained), task.optimizer, task.module.codebook_size
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    evaluated = jax.jit(task.eval_step)(
        state,
        {"teacher": load_teacher(runs / "restoration")[1]},
        images,
        jax.random.split(jax.random.key(0), 2),
    )
    restore = jax.jit(lambda v, x: trained.module.apply(v, x, w=1.0, adain=adain).image)
    expected = restore(trained.variables, evaluated.panels["degraded"])
    np.testing.assert_allclose(evaluated.panels["restored, w = 1"], expected, atol=1e-4)


def test_the_config_of_another_model_is_refused_by_the_settings_that_differ(runs):
    config = tiny_config("restoration").unlock()
    config.model.nf, config.codeformer.n_head = 16, 4
    config.model.beta = 1.0  # Of the training alone.
    message = (
        r"another network than the one in .*restoration: model\.nf=16 \(the run: 8\), "
        r"codeformer\.n_head=4 \(the run: 2\)\. Leave out --config"
    )
    with pytest.raises(ValueError, match=message):
        evaluate_run(config, runs / "restoration")
    config = tiny_config("restoration").unlock()
    config.data.image_size = 64
    with pytest.raises(ValueError, match=r"^data\.image_size=64, but .* network for 32 px: give"):
        evaluate_run(config, runs / "codeformer.safetensors")


def test_a_run_is_evaluated_by_its_own_config(runs, restoration):
    config = own_config(runs / "restoration", vqgan.get_config())
    assert config.eval.weights == (0.0, 0.5, 1.0)
    evaluation = evaluate_run(config, runs / "restoration")
    same_scores(evaluation.scores, restoration.scores)
    assert evaluation.settings == restoration.settings


def test_its_own_config_takes_overrides_as_a_file_does(runs, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    stored = json.loads((runs / "restoration" / CONFIG_FILE).read_text())
    del stored["eval"]["testset"]  # As an older version wrote it.
    (workdir / CONFIG_FILE).write_text(json.dumps(stored))
    overrides = {
        "eval.path": "2024",
        "eval.testset": "sets/a",
        "eval.limit": "3",
        "eval.weights": "(0.25,)",
        "model.ema_decay": "0.5",
        "teacher": "runs/other",
    }
    values = flags.FlagValues()
    argv = ["eval.py", *(f"--config.{name}={value}" for name, value in overrides.items())]
    config_flags.DEFINE_config_dict(
        "config", own_config(workdir, vqgan.get_config()), flag_values=values, sys_argv=argv
    )
    values(argv)
    config = values.config
    assert (config.eval.path, config.eval.testset, config.teacher) == (
        "2024",
        "sets/a",
        "runs/other",
    )
    assert (config.eval.limit, config.eval.weights, config.model.ema_decay) == (3, (0.25,), 0.5)
    with pytest.raises(FileNotFoundError, match=r"^--config is required for .*safetensors"):
        own_config(runs / "codeformer.safetensors")


def test_the_teacher_in_the_workdir_serves_where_the_first_one_has_moved(runs, restoration):
    config = own_config(runs / "restoration").unlock()
    trained = load_trained(runs / "restoration")
    trained.config.teacher = config.teacher = "moved away"
    with pytest.raises(FileNotFoundError, match="moved away"):
        evaluate_run(config, runs / "restoration")  # Of a run whose own teacher was another one.
    assert run._find_teacher(config, trained, runs / "restoration") is not None


def test_the_computation_is_the_config_s(runs, restoration):
    config = own_config(runs / "restoration").unlock()
    config.model.dtype = "bfloat16"
    evaluation = evaluate_run(config, runs / "restoration")
    assert evaluation.settings["network"]["dtype"] == "bfloat16"
    ours, theirs = (e.scores["w=1"]["psnr"] for e in (evaluation, restoration))
    np.testing.assert_allclose(ours, theirs, atol=0.5)
    assert not np.array_equal(ours, theirs)


def test_a_report_is_not_replaced_unasked(runs, tmp_path):
    workdir, model = tmp_path / "run", tmp_path / "model.safetensors"
    (workdir / "eval").mkdir(parents=True)
    assert report_folder(workdir) == workdir / "eval"
    assert report_folder(model) == tmp_path / "eval"
    (workdir / "eval" / "metrics.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"eval holds the report .*--output=DIR .*--force"):
        report_folder(workdir)
    assert report_folder(workdir, force=True) == workdir / "eval"
    assert report_folder(workdir, tmp_path / "other") == tmp_path / "other"
