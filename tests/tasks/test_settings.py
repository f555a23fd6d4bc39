"""The table of ranges: what it refuses, what it lets pass, and that every row is of use."""

import dataclasses

import jax
import pytest
from tiny import tiny_config, tiny_gpt, tiny_pixelcnn

from codeformer_jax.evaluate.run import evaluate_run
from codeformer_jax.nn import GPT, VQGAN, VQVAE, PatchDiscriminator, PixelCNN, TamingVQGAN
from codeformer_jax.tasks import make_task, settings
from codeformer_jax.train import loop, plan

NAN, INFINITE = float("nan"), float("inf")
# Setting, value, what is said of it.
RUINOUS = [
    ("optimizer.learning_rate", 0.0, "must be a finite number of more than 0; at 0 nothing"),
    ("optimizer.learning_rate", -1e-4, "must be a finite number of more than 0"),
    ("optimizer.learning_rate", NAN, "must be a finite number of more than 0"),
    ("optimizer.learning_rate", INFINITE, "must be a finite number of more than 0"),
    ("optimizer.learning_rate", None, "must be a finite number of more than 0"),
    ("optimizer.final_learning_rate", -1e-5, "must be a number of at least 0"),
    ("optimizer.clip_norm", -1.0, r"must be 0 \(off\) or more"),
    ("optimizer.betas", (0.9, 1.5), "must be a tuple of 2 values, each a number of at least 0 and"),
    ("optimizer.betas", (0.9,), "must be a tuple of 2 values"),
    ("optimizer.betas", (0.9, "0.99"), "must be a tuple of 2 values"),
    ("optimizer.weight_decay", -0.1, "must be a number of at least 0"),
    ("optimizer.name", "lion", "must be one of adam, adamw"),
    ("optimizer.schedule", "linear", "must be one of constant, cosine, multistep"),
    ("optimizer.warmup_steps", -5, "must be a whole number of at least 0"),
    ("optimizer.accumulate", 0, "must be a whole number of at least 1"),
    ("loss.gan_weight", -1.0, "must be a number of at least 0"),
    ("loss.adaptive_maximum", -1.0, "must be a number of more than 0"),
    ("loss.pixel_weight", NAN, "must be a number of at least 0"),
    ("loss.statistics_groups", 0, "must be a whole number of at least 1"),
    ("ema_decay", 1.5, "must be a number of at least 0 and less than 1"),
    ("ema_decay", 1.0, "must be a number of at least 0 and less than 1"),
    ("model.ema_decay", -0.1, "must be none, or a number of at least 0 and less than 1"),
    ("model.restart_below", -1.0, r"must be 0 \(off\) or more"),
    ("model.beta", -0.25, "must be a number of at least 0"),
    ("model.ch_mult", (1, 0), "must be a tuple of values, each a whole number of at least 1"),
    ("model.nf", True, "must be a whole number"),
    ("model.dtype", "float16", r"must be float32 or bfloat16 \(not float16, in which gradients"),
    ("model.dtype", "float99", "must be float32 or bfloat16"),
    ("codebook_init", "zeros", "must be one of latents, uniform"),
    ("data.batch_size", 0, "must be a whole number of at least 1"),
    ("data.workers", -1, r"must be 0 \(threads of this process\) or a number of processes"),
    ("data.heldout_fraction", 1.0, "must be a number of at least 0 and less than 1"),
    ("log_every", 0, "must be a whole number of at least 1"),
    ("checkpoint_every", 2.5, "must be a whole number of at least 1"),
    ("eval.batches", 0, "must be a whole number of at least 1"),
    ("eval.weights", (0.0, -1.0), "must be a tuple of values, each a number of at least 0"),
    ("eval.limit", 0, "must be none, or a whole number of at least 1"),
    ("peak_tflops", 0.0, "must be none, or a number of more than 0"),
    ("seed", -1, "must be a whole number of at least 0 and at most 4294967295"),
    ("steps", -1, "must be a whole number of at least 0"),
]


def changed(config, name, value):
    """The config with a setting that has any value, also one of another type."""
    config = config.copy_and_resolve_references().unlock()
    *sections, last = name.split(".")
    holder = config
    for section in sections:
        holder = holder[section]
    with holder.ignore_type():
        holder[last] = value
    return config.lock()


@pytest.mark.parametrize(("name", "value", "message"), RUINOUS)
def test_a_ruinous_value_is_refused_and_nothing_is_written(name, value, message, tmp_path):
    config = changed(tiny_config("vqgan"), name, value)
    with pytest.raises(ValueError, match=message) as caught:
        loop.train(config, tmp_path / "run")
    assert str(caught.value).startswith(f"{name}={value!r} must be ")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("config", "name", "value"),
    [
        (lambda: tiny_config("code_prediction"), "optimizer.milestones", (4, 4)),
        (lambda: tiny_config("code_prediction"), "optimizer.gamma", 0.0),
        (lambda: tiny_config("code_prediction"), "teacher_min_psnr", NAN),
        (lambda: tiny_config("code_prediction"), "loss.cross_entropy_weight", -0.5),
        (lambda: tiny_config("restoration"), "schedule", (3,)),
        (lambda: tiny_config("restoration"), "discriminator.dtype", "float16"),
        (tiny_pixelcnn, "pixelcnn.kernel", 1),
        (tiny_pixelcnn, "pixelcnn.dtype", "float16"),
        (tiny_gpt, "loss.pkeep", 0.0),
        (tiny_gpt, "gpt.dropout", 1.0),
        (tiny_gpt, "gpt.block_size", 0),
        (tiny_gpt, "gpt.condition", "text"),
        (tiny_gpt, "gpt.remat", "some"),
        (lambda: tiny_config("vqgan"), "eval.metrics", ("psnrr",)),
    ],
)
def test_values_of_the_other_tasks_are_refused_as_well(config, name, value):
    with pytest.raises(ValueError, match=rf"^{name}="):
        make_task(changed(config(), name, value))


def test_a_row_of_the_schedule_is_named_by_its_place():
    row = {"until": 10, "w": 1.0, "recipe": "small", "image_losses": True}
    rows = (row, {**row, "w": -1.0, "every": -2})
    config = changed(tiny_config("restoration"), "schedule", rows)
    with pytest.raises(ValueError, match=r"2 settings are out of range") as caught:
        make_task(config)
    assert [line.split("=")[0] for line in str(caught.value).splitlines()[1:]] == [
        "  schedule[1].w",
        "  schedule[1].every",
    ]


def test_recipes_are_named_by_their_section():
    config = tiny_config("code_prediction").unlock()
    config.eval.recipe = "tiny"
    with pytest.raises(
        ValueError, match=r"eval.recipe='tiny' is not a recipe; config.degradation ha"
    ):
        make_task(config)
    config.degradation.small.noise = (-1.0, 5.0)
    with pytest.raises(ValueError, match=r"degradation.small: noise is .*: expected \(low, high\)"):
        make_task(config)


def test_all_faults_are_listed_before_a_plan_and_an_evaluation_too(tmp_path):
    config = changed(tiny_config("vqgan"), "optimizer.clip_norm", -1.0)
    config = changed(config, "optimizer.learning_rate", 0.0)
    for use in (plan.make_plan, lambda config: evaluate_run(config, tmp_path)):
        with pytest.raises(ValueError, match="2 settings are out of range:") as caught:
            use(config)
        assert "\n  optimizer.clip_norm=-1.0 must be 0 (off) or more" in str(caught.value)
        assert "\n  optimizer.learning_rate=0.0 must be " in str(caught.value)


def test_a_users_own_section_and_a_config_without_newer_keys_pass():
    config = tiny_config("vqgan").unlock()
    config.mine = {"learning_rate": -1.0, "layers": ({"width": 0},)}
    config.optimizer.momentum = -1.0
    del config.optimizer.accumulate
    del config.loss.statistics_groups
    settings.check(config)


def test_a_run_is_loaded_whatever_it_was_trained_with():
    config = changed(tiny_config("vqgan"), "optimizer.clip_norm", -1.0)
    assert make_task(config, check=False).network == "vqgan"


def test_double_precision_needs_x64(monkeypatch):
    config = changed(tiny_config("vqgan"), "model.dtype", "float64")
    with pytest.raises(ValueError, match="or float64 with JAX_ENABLE_X64=1"):
        settings.check(config)
    with jax.enable_x64(True):
        settings.check(config)


def test_every_row_is_of_a_setting_that_exists():
    """A row whose name is misspelt would check nothing."""
    sections = {
        "model": (VQGAN, VQVAE, TamingVQGAN),
        "discriminator": (PatchDiscriminator,),
        "gpt": (GPT,),
        "pixelcnn": (PixelCNN,),
    }
    known = {
        f"{section}.{field.name}"
        for section, modules in sections.items()
        for module in modules
        for field in dataclasses.fields(module)
    }
    known |= {f"schedule[].{name}" for name in ("until", "w", "every")}
    for config in (*map(tiny_config, ("vqgan", "restoration")), tiny_gpt(), tiny_pixelcnn()):
        known |= {settings.row_of(name) for name, _ in settings.leaves(config)}
    assert not settings.RULES.keys() - known
