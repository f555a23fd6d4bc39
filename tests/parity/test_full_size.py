"""The 512 px networks and training steps against PyTorch's numbers.

One module, so that test workers, which share modules out whole, never hold two of them at once.
"""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from parity import steps, support

from codeformer_jax.ops.resize import resize_bilinear
from codeformer_jax.tasks import CodePredictionTask, RestorationTask, common
from configs import codeformer_stage2, codeformer_stage3

SIDE = 512


@pytest.fixture(autouse=True)
def _bounded_memory():
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def codeformer():
    return support.seeded("codeformer", support.load("codeformer"))


@pytest.fixture(scope="module")
def teacher():
    fixture = support.load("vqgan_full")
    return support.seeded("vqgan", fixture, **support.backbone_fields(fixture))


def add_image(pairs, fixture, suffix, image, kept):
    """Adds pixels (every 8th), mean and deviation of `image` to `pairs`."""
    image = np.asarray(image)
    pairs[kept + suffix] = (image[:, ::8, ::8], fixture[kept + suffix])
    for name, value in (("mean", image.mean((1, 2))), ("std", image.std((1, 2)))):
        pairs[f"{kept}_{name}{suffix}"] = (value, fixture[f"{kept}_{name}{suffix}"])


@pytest.mark.slow
def test_vqgan_full(teacher):
    fixture = support.load("vqgan_full")
    module, variables = teacher
    output = support.jit(module.apply)(variables, support.images(SIDE, 0))
    pairs = {
        "encoder": (output.latents, fixture["encoder"]),
        "indices": (output.indices[0], fixture["indices"]),
        "mean_distance": (output.quantized.mean_distance, fixture["mean_distance"]),
    }
    add_image(pairs, fixture, "", output.image, "reconstruction")
    support.assert_arrays(pairs)
    measured = {"codebook_loss": output.codebook_loss, "perplexity": output.perplexity}
    support.assert_scalars(measured, {name: float(fixture[name]) for name in measured})


@pytest.mark.parametrize("adain", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_codeformer(codeformer, adain):
    fixture = support.load("codeformer")
    module, variables = codeformer
    image, weights = support.images(SIDE, 0), (0.0, 0.5, 1.0)

    @support.jit
    def restore(variables, image, weights):
        # Encoder and transformer do not depend on w: they run once.
        one = functools.partial(module.apply, variables, image, adain=adain)
        return jax.vmap(lambda w: vars(one(w=w)))(weights)

    outputs = restore(variables, image, jnp.array(weights))
    for index, w in enumerate(weights):
        output = SimpleNamespace(**jax.tree.map(lambda x, i=index: x[i], outputs))
        pairs = {
            "lq_feat": (output.latents[:, ::2, ::2], fixture["lq_feat"]),
            "logits": (output.logits[:, ::4], fixture["logits"]),
            "indices": (output.indices[0], fixture["indices"]),
        }
        add_image(pairs, fixture, f"_w{w}_adain{adain:d}", output.image, "output")
        support.assert_arrays(pairs)


def degraded_images():
    """Bilinear x8 of the 8x8 average pooling, as the fixtures of both stages have it."""
    real = support.images(SIDE, 0)
    pooled = real.reshape(1, SIDE // 8, 8, SIDE // 8, 8, 3).mean((2, 4))
    small, large = jnp.array([SIDE // 8]), jnp.array([SIDE])
    resize = support.jit(functools.partial(resize_bilinear, canvas=(SIDE, SIDE)))
    return np.asarray(resize(jnp.asarray(pooled), small, small, large, large))


class FixedDegradation:
    """A task whose degraded images are given."""

    degraded: jax.Array

    def degrade(self, real, keys, recipe):
        return self.degraded


class CodePredictionStep(FixedDegradation, CodePredictionTask):
    pass


class RestorationStep(FixedDegradation, RestorationTask):
    pass


def run_step(task, codeformer, frozen, discriminator=None):
    """(gradients' state, metrics); parameters stay, which saves their second copy."""
    module, variables = codeformer
    task.degraded = jnp.asarray(degraded_images())
    steps.record(task, optax.set_to_zero())
    trained = common.select(variables["params"], task.trained)
    state = steps.make_state(task, variables, trained, module.codebook_size, discriminator)
    return steps.one_step(task, state, frozen, support.images(SIDE, 0))


def code_scalars(metrics):
    # PyTorch's number has the weight of the cross entropy in it.
    return {
        "l_feat_encoder": metrics["feature"],
        "cross_entropy_loss": 0.5 * metrics["cross_entropy"],
    }


@pytest.mark.slow
def test_stage2_step(codeformer, teacher):
    fixture = support.load("stage2_step")
    degraded = degraded_images()
    task = CodePredictionStep(codeformer_stage2.get_config())
    _, variables = teacher
    targets = support.jit(task.targets)(
        {"teacher": variables}, jnp.asarray(support.images(SIDE, 0))
    )
    support.assert_arrays(
        {
            "lq": (degraded[:, ::8, ::8], fixture["lq"]),
            "target_indices": (targets.indices[0], fixture["target_indices"]),
        }
    )
    state, metrics = run_step(task, codeformer, {"teacher": variables})
    ours = {**code_scalars(metrics), "accuracy": metrics["accuracy"]}
    support.assert_scalars(ours, support.table(fixture, "scalars"))
    support.assert_gradient_norms(
        steps.torch_gradients("codeformer", state), support.table(fixture, "grad_norms")
    )


@pytest.mark.slow
def test_stage3_step(codeformer, teacher):
    fixture = support.load("stage3_step")
    _, discriminator = support.seeded("discriminator", fixture, "disc_shapes")
    config = codeformer_stage3.get_config().unlock()
    config.loss.update(lpips_normalize_twice=True, gan_start=0)
    task = RestorationStep(config)
    assert task.phase(0).w == 1.0
    lpips = support.seeded_lpips(support.load("lpips"))[1]
    frozen = {"teacher": teacher[1], "lpips": lpips}
    state, metrics = run_step(task, codeformer, frozen, discriminator)
    theirs = support.table(fixture, "scalars")
    ours = code_scalars(metrics) | {
        "l_pix": metrics["l1"],
        "l_percep": metrics["perceptual"],
        "l_gan": metrics["gan"],
        "d_weight": metrics["adaptive_weight"],
        "l_total": metrics["loss"],
        "l_d_real": metrics["d_real"],
        "l_d_fake": metrics["d_fake"],
    }
    support.assert_scalars(ours, {name: theirs[name] for name in ours})
    # A quotient of two gradient norms, each of which may be off by their relative bound.
    ratio = theirs["d_weight_unclamped"]
    assert abs(float(metrics["adaptive_ratio"]) - ratio) < support.NORM_BOUND[0] * ratio
    support.assert_gradient_norms(
        steps.torch_gradients("codeformer", state), support.table(fixture, "grad_norms")
    )
    support.assert_gradient_norms(
        steps.torch_gradients("discriminator", state.discriminator),
        support.table(fixture, "disc_grad_norms"),
    )
