"""PixelCNN priors learn codes and pixels, with and without classes; their runs and refusals."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config, tiny_pixelcnn, tiny_vqvae

from codeformer_jax import convert
from codeformer_jax.checkpoints.trained import export_trained, load_teacher, load_trained
from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.evaluate.run import evaluate_run
from codeformer_jax.priors import encode
from codeformer_jax.tasks import make_task
from codeformer_jax.train import loop


@pytest.fixture(scope="module")
def faces():
    source = SyntheticFaces("train", 16, 16)
    return np.stack([source[i]["image"][::2, ::2] for i in range(16)])


def take(task, state, frozen, images, steps, **labels):
    step, history = jax.jit(task.train_step), []
    for i in range(steps):
        key = jax.random.fold_in(jax.random.key(1), i)
        state, metrics = step(state, frozen, images, key, task.phase(i), None, **labels)
        history.append(jax.device_get(metrics))
    return state, history


def test_a_prior_of_pixels_learns(faces):
    config = tiny_pixelcnn("pixels").unlock()
    config.optimizer.learning_rate = 1e-2
    config.steps = 60
    task = make_task(config)
    assert not task.needs_teacher
    assert (task.module.channels, task.module.levels) == (3, 256)
    state = jax.jit(task.init)(jax.random.key(0), faces, None)
    after, history = take(task, state, {}, faces, 60)
    assert history[0]["bits_per_dim"] == pytest.approx(8, abs=1.5)
    assert history[-1]["bits_per_dim"] < 7.5
    assert history[-1]["loss"] == pytest.approx(history[-1]["bits_per_dim"] * np.log(2), rel=1e-5)
    assert not {"perplexity", "dead_codes"} & history[0].keys()
    # What was seen, where: each map was counted in every step.
    expected = np.stack([(faces == k).sum(axis=0) for k in (3, 200)], axis=-1)
    np.testing.assert_array_equal(after.site_counts[..., [3, 200]], 60 * expected)
    evaluated = jax.jit(task.eval_step)(after, {}, faces, jax.random.split(jax.random.key(0), 16))
    np.testing.assert_allclose(evaluated.metrics["bits_per_dim_uniform"], 8.0)
    assert evaluated.metrics["bits_per_dim"].shape == (16,)
    np.testing.assert_array_equal(evaluated.indices.reshape(faces.shape), faces)


def test_a_class_tells_what_a_map_without_it_cannot():
    """Maps of one value each, which is the class: with it the map is known from the first site."""
    config = tiny_pixelcnn("pixels").unlock()
    config.optimizer.learning_rate = 1e-2
    config.pixelcnn.classes = 4
    config.data.image_size = 4  # The first site is a sixteenth of the loss.
    config.steps = 120
    task = make_task(config)
    assert task.needs_labels
    labels = np.arange(16) % 4
    images = np.broadcast_to((60 * labels)[:, None, None, None], (16, 4, 4, 3)).astype(np.uint8)
    state = jax.jit(task.init)(jax.random.key(0), images, None)
    after, _ = take(task, state, {}, images, 120, labels=jnp.asarray(labels, jnp.int32))
    logits = task.module.apply(
        {"params": after.params}, jnp.asarray(images[:4], jnp.int32), jnp.arange(4)
    )
    np.testing.assert_array_equal(jnp.argmax(logits[:, 0, 0, 0], axis=-1), 60 * np.arange(4))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Workdirs: a VQ-VAE of shapes, and a class-conditional prior of its codes."""
    root = tmp_path_factory.mktemp("priors")
    config = tiny_vqvae().unlock()
    config.data.path = "synthetic_shapes:32"
    loop.train(config, root / "vqvae")
    return root


def prior(root, **data):
    config = tiny_pixelcnn().unlock()
    config.data.update({"path": "synthetic_shapes:32", **data})
    config.pixelcnn.classes = 10
    config.teacher = str(root / "vqvae")
    return config


@pytest.fixture(scope="module")
def run(root):
    scores = loop.train(prior(root), root / "pixelcnn")
    return root / "pixelcnn", scores


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_reports_bits_beside_both_baselines(run, root):
    workdir, scores = run
    assert scores["bits_per_dim_uniform"] == pytest.approx(4)
    assert {"bits_per_dim", "bits_per_dim_sites", "teacher_mse", "teacher_psnr"} <= scores.keys()
    # 64 codes for 3,072 values.
    assert scores["image_bits_per_dim"] == pytest.approx(scores["bits_per_dim"] * 64 / 3072)
    teacher = [x for x in lines(root / "vqvae") if "eval/psnr" in x][-1]
    assert scores["teacher_psnr"] == pytest.approx(teacher["eval/psnr"], abs=0.01)
    assert len(list((workdir / "images").glob("*.png"))) == 3
    network, module, _ = convert.load_model(workdir / "teacher.safetensors")
    assert (network, module.ema_decay) == ("vqvae", None)


def test_the_best_checkpoint_is_the_one_of_fewest_bits(run):
    workdir, _ = run
    scored = {
        x["step"]: x["eval/bits_per_dim"]
        for x in lines(workdir)
        if "eval/mse" not in x and "eval/bits_per_dim" in x
    }
    assert load_trained(workdir, "best").step == min(scored, key=scored.get)


def test_a_run_with_codes_has_the_losses_of_one_without(run, root, tmp_path):
    encode.encode_dataset(root / "vqvae", tmp_path / "codes", mesh="data:1")
    loop.train(prior(root, codes=str(tmp_path / "codes")), tmp_path / "run")
    wanted, found = ([x for x in lines(w) if "train/loss" in x] for w in (run[0], tmp_path / "run"))
    for one, other in zip(wanted, found, strict=True):
        assert one["train/loss"] == pytest.approx(other["train/loss"], rel=1e-4)


def test_a_run_is_exported_and_gone_on_with(run, root, tmp_path):
    workdir, _ = run
    target = tmp_path / "pixelcnn.safetensors"
    export_trained(workdir, target)
    network, module, variables = convert.load_model(target)
    trained = load_trained(workdir)
    assert (network, module) == ("pixelcnn", trained.module)
    arguments = (jnp.zeros((1, 8, 8, 1), jnp.int32), jnp.array([7]))
    np.testing.assert_array_equal(
        module.apply(variables, *arguments),
        trained.module.apply(trained.variables, *arguments),
    )
    config = prior(root)
    config.init_from = str(target)
    config.steps = 1
    loop.train(config, tmp_path / "more")
    assert load_teacher(tmp_path / "more")[0] == load_teacher(workdir)[0]
    with pytest.raises(ValueError, match="holds a pixelcnn, which makes no pictures to compare"):
        evaluate_run(config, workdir)


def refused(config, tmp_path, message):
    with pytest.raises(ValueError, match=message):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_source_without_labels_is_refused(root, tmp_path):
    refused(prior(root, path="synthetic:32"), tmp_path, "on 10 classes, and a batch has no labels")
    config = prior(root)
    config.pixelcnn.classes = 4
    config.data.path = "synthetic_shapes:32"
    refused(config, tmp_path, "has the label [4-9], but the network knows only 0 to 3")


def test_teachers_that_do_not_fit_are_refused(root, stages, tmp_path):
    config = prior(root)
    config.teacher = None
    refused(config, tmp_path, "learns the codes of a trained stage-I network and none was given")
    config.teacher = str(stages[0] / "vqgan")
    refused(config, tmp_path, "learns the codes of a vqvae; the teacher given is a vqgan")
    config = prior(root)
    config.model.hidden = 8
    refused(config, tmp_path, "the network to start from does not fit this config")
    config = prior(root)
    config.teacher_min_psnr = 60.0
    refused(config, tmp_path, "under the floor of 60 dB")


@pytest.mark.slow
def test_a_vqgan_has_a_prior_too(stages, tmp_path):
    config = tiny_pixelcnn("vqgan").unlock()
    config.init_from = str(stages[0] / "vqgan")
    for name in ("ema_decay", "restart_below", "attn_resolutions"):
        config.model[name] = tiny_config("vqgan").model[name]
    config.steps = 2
    scores = loop.train(config, tmp_path / "run")
    assert scores["bits_per_dim_uniform"] == pytest.approx(4)
    assert load_trained(tmp_path / "run").module.map_size == 16


def test_settings_that_cannot_be_are_refused():
    config = tiny_pixelcnn().unlock()
    config.prior_of = "gan"
    kinds = "vqgan, vqvae, taming_vqgan, pixels"
    with pytest.raises(ValueError, match=f"prior_of='gan' is unknown; expected one of {kinds}"):
        make_task(config)
    config = tiny_pixelcnn().unlock()
    config.data.image_size = 30
    with pytest.raises(ValueError, match=r"data\.image_size=30 does not divide into codes of 4 px"):
        make_task(config)


def test_a_prior_beats_every_place_by_itself_on_maps_it_has_not_seen():
    """Rows of one colour: only who looks to the left can tell more than the place's frequencies."""
    random = np.random.default_rng(0)
    rows = (random.integers(0, 2, (12, 16, 8, 1, 1)) * 255).astype(np.uint8)
    images = np.broadcast_to(rows, (12, 16, 8, 8, 3))
    config = tiny_pixelcnn("pixels").unlock()
    config.optimizer.learning_rate = 1e-2
    config.steps = 100
    task = make_task(config)
    state = jax.jit(task.init)(jax.random.key(0), images[0], None)
    step = jax.jit(task.train_step)
    for i in range(100):
        state, _ = step(state, {}, images[i % 11], jax.random.key(i), task.phase(i))
    keys = jax.random.split(jax.random.key(0), 16)
    metrics = jax.jit(task.eval_step)(state, {}, images[11], keys).metrics
    bits, sites = (float(metrics[n].mean()) for n in ("bits_per_dim", "bits_per_dim_sites"))
    assert 0.99 < sites < 1.3  # A coin for each row.
    assert bits < 0.5 * sites
