"""What each task trains, what it leaves alone, and what its schedule says of every step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config

from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.tasks import common, make_task
from codeformer_jax.tasks.codes import CODE_PATH
from codeformer_jax.tasks.restoration import Row
from configs import codeformer_stage2, codeformer_stage3, vqgan


@pytest.fixture(scope="module")
def images():
    source = SyntheticFaces("train", 32, 8)
    return np.stack([source[i]["image"] for i in range(8)])


_STARTED = {}


def start(config, images, previous=None):
    """Task, state and frozen networks: the teacher is the student's own random VQGAN."""
    task = make_task(config)
    # A state follows from the networks alone; to compile `init` takes longer than most tests.
    sections = (str(config.get(name)) for name in ("model", "codeformer", "discriminator"))
    known = (*sections, config.get("codebook_init"))
    state = _STARTED.get(known) if previous is None else None
    if state is None:
        state = jax.jit(task.init)(jax.random.key(0), images, previous)
    if previous is None:
        _STARTED[known] = state
    frozen = {}
    if task.needs_teacher:
        teacher = {name: state.params[name] for name in ("encoder", "quantize", "generator")}
        frozen = {"teacher": {"params": jax.tree.map(jnp.copy, teacher)}}
    return task, state, frozen


def run(task, state, frozen, images, steps):
    step = jax.jit(task.train_step)
    history = []
    for i in range(int(state.step), int(state.step) + steps):
        key = jax.random.fold_in(jax.random.key(1), i)
        state, metrics = step(state, frozen, images, key, task.phase(i))
        history.append(jax.device_get(metrics))
        assert all(np.isfinite(v) for v in history[-1].values()), (i, history[-1])
    return state, history


def changed(before, after):
    """Top-level names of parameters of which anything changed."""
    return {
        name
        for name in before
        if any(
            np.any(a != b)
            for a, b in zip(
                jax.tree.leaves(before[name]), jax.tree.leaves(after[name]), strict=True
            )
        )
    }


def test_unknown_task_names_the_known_ones():
    config = tiny_config("vqgan").unlock()
    config.task = "vae"
    with pytest.raises(ValueError, match=r"'vae'; expected one of vqgan, vqvae, pixel"):
        make_task(config)


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


def test_codes_start_from_latents_or_uniform(images):
    config = tiny_config("vqgan").unlock()
    config.model.ema_decay = None
    _, state, _ = start(config, images)
    codes = np.asarray(state.params["quantize"]["embedding"])
    module = make_task(config).module
    real = common.from_uint8(jnp.asarray(images))
    latents = np.asarray(module.apply({"params": state.params}, real).latents).reshape(-1, 8)
    distances = np.abs(codes[:, None] - latents[None]).max(-1).min(1)
    np.testing.assert_allclose(distances, 0, atol=1e-5)
    config.codebook_init = "uniform"
    _, state, _ = start(config, images)
    assert np.abs(state.params["quantize"]["embedding"]).max() <= 1 / 16
    config.codebook_init = "zeros"
    with pytest.raises(ValueError, match="codebook_init='zeros' must be one of latents, uniform"):
        make_task(config)


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


def test_stage3_image_losses_train_the_fusion_alone(images):
    config = tiny_config("restoration", steps=15).unlock()
    config.loss.feature_weight = config.loss.cross_entropy_weight = 0.0
    task, state, frozen = start(config, images)
    after, history = run(task, state, frozen, images, 15)
    assert changed(state.params, after.params) == {"fuse_convs_dict_16", "fuse_convs_dict_32"}
    assert history[-1]["l1"] < history[0]["l1"]


def test_stage3_runs_every_boundary_of_its_schedule(images):
    """The published schedule fails at the first step of its third phase."""
    config = tiny_config("restoration", steps=11).unlock()
    small, large = {"recipe": "small"}, {"recipe": "large"}
    config.loss.gan_start = 1
    config.schedule = (
        {"until": 2, "w": 1.0, "image_losses": True, **small},
        {"until": 4, "w": 1.3, "image_losses": True, **small},
        {"until": 6, "w": 0.0, "image_losses": False, **large},
        {"until": 10, "w": 1.3, "image_losses": True, "every": 3, **small},
        {"until": 10, "w": 0.0, "image_losses": False, **large},
        {"until": 11, "w": 1.3, "image_losses": True, "code_recipe": "large", **small},
    )
    task, state, frozen = start(config, images)
    after, history = run(task, state, frozen, images, 11)
    assert ["l1" in metrics for metrics in history] == [
        *[True] * 4,
        *[False] * 4,
        True,
        False,
        True,
    ]
    assert int(after.step) == 11
    assert ["gan" in metrics for metrics in history][:3] == [False, True, True]


@pytest.mark.parametrize(
    ("step", "w", "recipe", "image_losses", "gan"),
    [
        (0, 1.0, "small", True, False),
        (4_999, 1.0, "small", True, False),
        (5_000, 1.0, "small", True, True),
        (39_999, 1.0, "small", True, True),
        (40_000, 1.3, "small", True, True),
        (79_999, 1.3, "small", True, True),
        (80_000, 0.0, "large", False, False),
        (119_999, 0.0, "large", False, False),
        (120_000, 0.0, "large", False, False),
        (120_014, 1.3, "small", True, True),
        (120_015, 0.0, "large", False, False),
        (149_999, 1.3, "small", True, True),
    ],
)
def test_published_stage3_schedule(step, w, recipe, image_losses, gan):
    task = make_task(codeformer_stage3.get_config())
    phase = task.phase(step)
    assert (phase.w, phase.image_losses, phase.gan) == (w, image_losses, gan)
    assert phase.recipe is task.recipes[recipe]


def test_published_stage1_and_stage2_phases():
    task = make_task(vqgan.get_config())
    assert [task.phase(step).gan for step in (0, 29_999, 30_000)] == [False, False, True]
    task = make_task(codeformer_stage2.get_config())
    rates = [float(task.optimizer.learning_rate(jnp.int32(s))) for s in (0, 400_001, 450_001)]
    np.testing.assert_allclose(rates, [1e-4, 5e-5, 2.5e-5], rtol=1e-6)


def two_recipes(steps=6):
    """Rows that take turns, the published last phase, and both recipes in one step."""
    config = tiny_config("restoration", steps=steps).unlock()
    config.loss.gan_start = 100
    small, large = {"recipe": "small"}, {"recipe": "large"}
    config.degradation.large = {**config.degradation.large.to_dict(), "noise": (40.0, 40.0)}
    config.schedule = (
        {"until": 2, "w": 1.0, "image_losses": True, **small},
        {"until": 5, "w": 1.3, "image_losses": True, "every": 2, **small},
        {"until": 5, "w": 0.0, "image_losses": False, **large},
        {"until": 6, "w": 1.3, "image_losses": True, "code_recipe": "large", **small},
    )
    return config


def draw(task, real, key, phase):
    """Degraded images of a step with this key, and those that its codes learn from."""
    return task.inputs(real, task.keys(key, len(real), phase), phase)


def test_every_phase_degrades_by_its_own_recipe_and_keys(images):
    task = make_task(two_recipes())
    real = common.from_uint8(jnp.asarray(images))
    inputs = jax.jit(lambda real, key, phase: draw(task, real, key, phase))
    seen = []
    for step, recipe in enumerate(("small", "small", "large", "small", "large", "small")):
        key = jax.random.fold_in(jax.random.key(1), step)
        degraded, coded = inputs(real, key, task.phase(step))
        keys = jax.random.split(key, len(images))
        expected = jax.jit(task.degrade)(real, keys, task.recipes[recipe])
        assert np.mean(np.abs(degraded - expected)) < 1e-3, step
        seen += [degraded] if coded is None else [degraded, coded]
        assert (coded is not None) == (step == 5)
    # Seven degradations of the same images: no two share their noise or parameters.
    errors = np.array([np.ravel(x - real) for x in seen])
    assert np.abs(errors).mean(1).min() > 0.01
    assert len(np.unique(errors.round(5), axis=0)) == 7


def test_one_image_under_two_recipes_in_one_step_is_two_independent_draws(images):
    config = two_recipes()
    # Nothing but noise, as strong in both: what is alike in the two could only come of shared keys.
    noise = {"blur_sigma": (0.01, 0.01), "downsample": (1.0, 1.0), "noise": (20.0, 20.0)}
    for name in ("small", "large"):
        config.degradation[name] = {**noise, "jpeg_quality": (100.0, 100.0)}
    task = make_task(config)
    real = jnp.zeros(images.shape, jnp.float32)
    for_images, for_codes = draw(task, real, jax.random.key(4), task.phase(5))
    one, two = np.ravel(for_images), np.ravel(for_codes)
    assert min(one.std(), two.std()) > 0.1
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.02
    # Nor is one image's draw another's.
    between = np.corrcoef(np.concatenate([for_images, for_codes]).reshape(2 * len(images), -1))
    assert np.abs(between - np.eye(2 * len(images))).max() < 0.1


def test_codes_learn_from_their_own_degradation_in_a_step_with_two(images):
    config = two_recipes()
    alone = config.copy_and_resolve_references()
    # The codes' losses of a step whose only recipe is the codes', with the codes' keys.
    config.schedule = ({**config.schedule[3], "until": 6},)
    alone.schedule = ({"until": 6, "w": 0.0, "recipe": "large", "image_losses": False},)
    task, state, frozen = start(config, images)
    key = jax.random.key(9)
    phase = task.phase(0)
    _, both = jax.jit(task.train_step)(state, frozen, images, key, phase)
    assert {"l1", "cross_entropy", "feature"} <= both.keys()

    other = make_task(alone)
    real = common.from_uint8(jnp.asarray(images))
    coded = jax.jit(lambda *arguments: draw(task, *arguments))(real, key, phase)[1]
    other.degrade = lambda real, keys, recipe: coded
    _, expected = jax.jit(other.train_step)(state, frozen, images, key, other.phase(0))
    for name in ("cross_entropy", "feature", "accuracy"):
        np.testing.assert_allclose(both[name], expected[name], rtol=1e-4)


def test_schedule_faults_are_refused():
    with pytest.raises(ValueError, match="image losses train the fusion blocks, which w = 0"):
        Row(until=10, w=0.0, recipe="large", image_losses=True)
    with pytest.raises(ValueError, match="give its recipe as 'recipe'"):
        Row(until=10, w=0.0, recipe="large", image_losses=False, code_recipe="small")
    config = tiny_config("restoration", steps=10).unlock()
    row = {"until": 9, "w": 1.0, "recipe": "small", "image_losses": True}
    config.schedule = (row,)
    with pytest.raises(ValueError, match=r"the schedule ends before config.steps = 10"):
        make_task(config)
    config.schedule = ({**row, "weight": 1.0},)
    with pytest.raises(ValueError, match=r"needs or may have until, w, recipe, .*'weight'"):
        make_task(config)
    config.schedule = ({**row, "recipe": "tiny"},)
    with pytest.raises(ValueError, match=r"unknown recipe; config.degradation has"):
        make_task(config)
    config.schedule = ({**row, "code_recipe": "tiny"},)
    with pytest.raises(ValueError, match=r"unknown recipe; config.degradation has"):
        make_task(config)
    config.codeformer.connect_list = ()
    with pytest.raises(ValueError, match="connect_list is empty"):
        make_task(config)


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


@pytest.mark.parametrize(("before", "after"), [(None, 0.9), (0.9, None)])
def test_stage1_starts_from_a_vqgan_with_either_codebook(images, before, after):
    config = tiny_config("vqgan").unlock()
    config.model.ema_decay = before
    _, state, _ = start(config, images)
    config.model.ema_decay = after
    _, new, _ = start(config, images, previous=state.variables())
    codes = common.plain_codebook(state.variables())["quantize"]["embedding"]
    np.testing.assert_array_equal(
        common.plain_codebook(new.variables())["quantize"]["embedding"], codes
    )
    config.model.codebook_size = 8
    with pytest.raises(ValueError, match=r"embedding: shape \(16, 8\), expected \(8, 8\)"):
        start(config, images, previous=state.variables())


def test_a_codeformer_of_other_depth_is_refused(images):
    _, state, _ = start(tiny_config("code_prediction"), images)
    for layers, message in ((2, "ft_layers_1: missing"), (0, "n_layers=0 must be a whole")):
        config = tiny_config("code_prediction").unlock()
        config.codeformer.n_layers = layers
        with pytest.raises(ValueError, match=message):
            start(config, images, previous=state.variables())


def test_steps_without_image_losses_do_not_compute_the_generator(images):
    config = tiny_config("restoration").unlock()
    row = {"w": 0.0, "recipe": "small", "image_losses": False}
    config.schedule = ({"until": 1, **row}, {"until": 4, **row, "w": 1.0, "image_losses": True})
    config.loss.gan_start = 100
    task, state, frozen = start(config, images)

    def flops(step):
        lowered = jax.jit(task.train_step).lower(
            state, frozen, images, jax.random.key(0), task.phase(step)
        )
        return lowered.compile().cost_analysis()["flops"]

    generator = jax.jit(task.module.apply, static_argnames="w").lower(
        {"params": state.params}, common.from_uint8(jnp.asarray(images)), w=1.0
    )
    assert flops(0) < flops(1) - generator.compile().cost_analysis()["flops"]


def test_stage2_starts_from_stage1_with_its_averaged_codebook(images):
    _, state, _ = start(tiny_config("vqgan"), images)
    variables = state.variables()
    _, student, _ = start(tiny_config("code_prediction"), images, previous=variables)
    codebook = variables["codebook"]["quantize"]["embedding"]
    np.testing.assert_array_equal(student.params["quantize"]["embedding"], codebook)
    assert not changed({"generator": state.params["generator"]}, student.params)


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
    known = jax.jit(task.train_step).lower(*arguments, codes).compile()

    (after, metrics), (known_after, known_metrics) = taught(*arguments), known(*arguments, codes)
    assert metrics.keys() == known_metrics.keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(known_metrics[name], value, rtol=1e-5, err_msg=name)
    # The first step of Adam is the gradient's sign, which rounding decides where it is nearly zero.
    rate = float(task.optimizer.learning_rate(state.step))
    other = jax.tree.map(lambda a, b: np.abs(a - b) > rate, after.params, known_after.params)
    assert np.mean(np.concatenate([x.ravel() for x in jax.tree.leaves(other)])) < 1e-3
    wrong_metrics = known(*arguments, (codes + 1) % 16)[1]
    assert abs(wrong_metrics["loss"] - metrics["loss"]) > 1e-3 * metrics["loss"]

    flops, sizes = zip(
        *((c.cost_analysis()["flops"], c.memory_analysis()) for c in (taught, known)), strict=True
    )
    assert flops[0] - flops[1] > 0.95 * teacher.cost_analysis()["flops"]
    encoder = sum(x.nbytes for x in jax.tree.leaves(frozen["teacher"]["params"]["encoder"]))
    saved = sizes[0].argument_size_in_bytes - sizes[1].argument_size_in_bytes
    assert saved == encoder - codes.nbytes
