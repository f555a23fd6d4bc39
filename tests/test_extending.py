"""The module of docs/extending.md, outside the package, trains, evaluates and restores."""

import contextlib
import json
import re
import sys
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags
from tiny import tiny_config

from codeformer_jax.checkpoints.trained import export_trained, load_trained
from codeformer_jax.convert import NETWORKS
from codeformer_jax.data.sources import SOURCES
from codeformer_jax.degrade import CORRUPTIONS
from codeformer_jax.evaluate.run import evaluate_run
from codeformer_jax.evaluate.table import plain_text
from codeformer_jax.metrics import METRICS
from codeformer_jax.nn import QUANTIZERS
from codeformer_jax.restore import Restorer
from codeformer_jax.system.registry import import_plugins
from codeformer_jax.tasks import TASKS, Task
from codeformer_jax.train import loop, plan
from configs import vqgan

ROOT = Path(__file__).resolve().parents[1]
REGISTRIES = (TASKS, NETWORKS, METRICS, CORRUPTIONS, QUANTIZERS, SOURCES)
NAME = "my_module"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The current folder, with the module of the page; whatever it registers goes at the end."""
    folder = tmp_path_factory.mktemp("outside")
    page = (ROOT / "docs" / "extending.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (folder / f"{NAME}.py").write_text("\n\n".join(blocks))
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(sys, "path", [path for path in sys.path if Path(path).resolve() != ROOT])
        patch.chdir(folder)
        for registry in REGISTRIES:
            stack.enter_context(mock.patch.dict(registry))
        yield folder
    sys.modules.pop(NAME, None)


def extended(stage, steps):
    """The tiny config of a stage with the plugin, its source and its corruption."""
    config = tiny_config(stage, steps).unlock()
    config.plugins = (NAME,)
    config.data.update(path="gradients:16", cache=False)
    if "degradation" in config:
        config.degradation.large = {"kind": "clean", "vignette": {"strength": (0.8, 0.8)}}
    return config


@pytest.fixture(scope="module")
def sharpened(folder):
    """Workdir of a run of the page's task, and its config."""
    config = extended("code_prediction", 30)
    config.task = "sharpen"
    config.eval_every = config.checkpoint_every = 15
    config.eval.recipe = "large"
    config.optimizer.learning_rate = 1e-2
    config.optimizer.warmup_steps = 0
    loop.train(config.lock(), folder / "run")
    return folder / "run", config


def lines(workdir, name):
    entries = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [entry[name] for entry in entries if name in entry]


def test_a_task_trains_its_network_on_a_source_and_a_corruption_of_ones_own(sharpened):
    workdir, _ = sharpened
    losses = lines(workdir, "train/loss")
    assert len(losses) == 30
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    psnr = lines(workdir, "eval/psnr")
    assert len(psnr) == 3
    assert psnr[-1] > psnr[0] + 1


def test_a_task_without_scores_and_codes_trains(folder):
    """The least that a task defines: a module, `init` and `train_step`."""
    config = extended("code_prediction", 2)
    config.task, config.eval.recipe = "least", "large"
    import_plugins(config)

    @TASKS.register("least")
    class Least(TASKS["sharpen"]):
        best_score = None
        eval_step = Task.eval_step

        def train_step(self, state, frozen, images, key, phase):
            zeros = jax.tree.map(jnp.zeros_like, state.params)
            return self.advance(state, zeros, {"distance": jnp.zeros(())})

    assert loop.train(config.lock(), folder / "least") == {}
    assert load_trained(folder / "least", "best").step == 2
    assert lines(folder / "least", "train/distance") == [0.0, 0.0]


def test_its_network_is_loaded_and_restores_pictures(sharpened):
    workdir, _ = sharpened
    trained = load_trained(workdir, "best")
    assert (trained.network, type(trained.module).__module__) == ("sharpener", NAME)
    clean = SOURCES["gradients"]("1", trained.config.data, "heldout")[0]["image"]
    vignette = CORRUPTIONS["vignette"]()
    dark = np.asarray(vignette.apply(clean[None] / np.float32(255), np.float32([0.8])))[0]

    def error(picture):
        return np.mean((np.float32(picture) - np.float32(clean) / 255) ** 2)

    export_trained(workdir, workdir / "model.safetensors")
    for path in (workdir, workdir / "model.safetensors"):
        assert error(Restorer.load(path)(dark, w=1.0)) < 0.8 * error(dark)


def test_its_run_resumes_and_its_steps_are_planned(sharpened):
    workdir, config = sharpened
    assert len(plan.make_plan(config).steps) == 1
    config = config.copy_and_resolve_references().unlock()
    config.steps = 32
    loop.train(config.lock(), workdir)
    assert len(lines(workdir, "train/loss")) == 32


def test_its_run_is_evaluated_by_a_metric_of_ones_own(sharpened):
    workdir, config = sharpened
    config = config.copy_and_resolve_references().unlock()
    config.eval.update(metrics=("psnr", "colour_error"), weights=(1.0,))
    evaluation = evaluate_run(config, workdir)
    means = evaluation.means()
    assert list(means["w=1"]) == ["psnr", "colour_error"]
    assert means["w=1"]["psnr"] > means["input"]["psnr"]
    assert means["w=1"]["colour_error"] < 0.5 * means["input"]["colour_error"]
    assert "colour error" in plain_text(evaluation)
    assert "colour_error" in evaluation.to_json()
    config.eval.metrics = ("sharpness",)
    with pytest.raises(ValueError, match="'sharpness'"):
        evaluate_run(config, workdir)


def test_a_quantizer_trains_in_a_vqgan(folder):
    config = extended("vqgan", 2)
    config.loss.gan_start = 100
    config.model.update(quantizer="sign", emb_dim=4, codebook_size=16, ema_decay=None)
    config.model.update(ch_mult=(1,), attn_resolutions=())
    config.model.restart_below = 0.0
    scores = loop.train(config.lock(), folder / "vqgan")
    assert 1 <= scores["perplexity"] <= 16
    trained = load_trained(folder / "vqgan")
    assert "quantize" not in trained.variables["params"]
    assert evaluate_run(config, folder / "vqgan").means()["reconstruction"]["psnr"] > 0


def test_plugins_are_set_on_the_command_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--config.plugins=('my_module',)"])
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", vqgan.get_config(), flag_values=values)
    values(sys.argv)
    assert values.config.plugins == ("my_module",)
