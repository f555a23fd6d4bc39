"""A prior's run: its teacher, its best checkpoint, resuming and exporting."""

import json

import jax
import pytest
from tiny import tiny_gpt

from codeformer_jax.checkpoints.trained import export_trained, load_trained
from codeformer_jax.checkpoints.workdir import saved_steps
from codeformer_jax.convert import load_model
from codeformer_jax.evaluate.run import evaluate_run
from codeformer_jax.sampling import sample_gpt, start_tokens
from codeformer_jax.train import loop


@pytest.fixture(scope="module")
def run(stages, tmp_path_factory):
    """A workdir after two of four steps, its config for all four, and the scores at two."""
    workdir = tmp_path_factory.mktemp("prior") / "run"
    config = tiny_gpt(steps=4).unlock()
    config.teacher = str(stages[0] / "vqgan")
    half = config.copy_and_resolve_references()
    half.steps = 2
    return workdir, config, loop.train(half, workdir)


def test_it_resumes_without_the_teachers_workdir(run, tmp_path):
    workdir, config, scores = run
    assert scores["bits_per_dim_uniform"] == pytest.approx(4)
    assert {"bits_per_dim", "bits_per_dim_sites", "image_bits_per_dim"} <= scores.keys()
    config.teacher = None
    last = loop.train(config, workdir)
    assert saved_steps(workdir)[-1] == 4
    best = workdir / "checkpoints" / "4" / "metrics" / "metrics"
    assert json.loads(best.read_text())["bits_per_dim"] == pytest.approx(last["bits_per_dim"])
    assert (workdir / "images" / "00000004.png").is_file()

    trained = load_trained(workdir)
    assert (trained.network, trained.module.map_size) == ("taming_gpt", (16, 16))
    export_trained(workdir, tmp_path / "prior.safetensors")
    network, module, variables = load_model(tmp_path / "prior.safetensors")
    assert (network, module) == ("taming_gpt", trained.module)
    codes = sample_gpt(
        module, variables, jax.random.split(jax.random.key(0), 1), start_tokens(module, 1)
    )
    assert codes.shape == (1, 16, 16)
    _, stage1, weights = load_model(workdir / "teacher.safetensors")
    decode = jax.jit(stage1.apply, static_argnames="method")
    assert decode(weights, codes, method="decode").shape == (1, 32, 32, 3)
    with pytest.raises(ValueError, match="holds a taming_gpt, which makes no pictures"):
        evaluate_run(config, workdir)
    # Another run starts from it.
    config.update(init_from=str(tmp_path / "prior.safetensors"), steps=1)
    config.teacher = str(workdir / "teacher.safetensors")
    again = loop.train(config, tmp_path / "again")
    assert again["bits_per_dim"] == pytest.approx(last["bits_per_dim"], rel=0.1)


def test_a_teacher_of_other_settings_is_refused(stages, tmp_path):
    config = tiny_gpt().unlock()
    config.teacher = str(stages[0] / "vqgan")
    config.model.emb_dim = 16
    with pytest.raises(ValueError, match=r"does not fit this config .*differences\)") as caught:
        loop.train(config, tmp_path / "run")
    assert "quantize/embedding: shape (16, 8), expected (16, 16)" in str(caught.value)
    assert not (tmp_path / "run").exists()
