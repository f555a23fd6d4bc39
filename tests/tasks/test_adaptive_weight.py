"""What the adaptive weight of the adversarial loss costs."""

import jax
import jax.numpy as jnp
import pytest

from codeformer_jax import losses
from codeformer_jax.tasks import make_task
from configs import codeformer_stage3, vqgan

BATCH, SIDE, WIDTH, CODES, LENGTH = 2, 32, 32, 32, 16


def make_config(module):
    config = module.get_config().unlock()
    config.model.update(
        image_size=SIDE,
        nf=WIDTH,
        ch_mult=(1, 2),
        res_blocks=1,
        attn_resolutions=(),
        codebook_size=CODES,
        emb_dim=LENGTH,
        norm_groups=8,
    )
    config.discriminator.update(ndf=8, n_layers=1)
    config.loss.update(perceptual_weight=0.0, gan_start=0)
    if "codeformer" in config:
        config.codeformer.update(dim_embd=16, n_head=2, n_layers=1, connect_list=(SIDE // 2,))
    return config


def step_flops(images, module):
    """Operations of the compiled step: what nothing depends on is not among them."""
    task, trees = make_task(make_config(module)), []
    # Of the teacher only the codebook is read where the codes are known.
    frozen = {"teacher": {"params": {"quantize": {"embedding": jnp.zeros((CODES, LENGTH))}}}}
    codes = jnp.zeros((BATCH, (SIDE // 2) ** 2), jnp.int32) if task.needs_teacher else None

    # Leaves instead of the state itself: its fields are checked to be arrays, not shapes.
    def init(images):
        leaves, tree = jax.tree.flatten(task.init(jax.random.key(0), images, None))
        trees.append(tree)
        return leaves

    def step(leaves, images):
        state = jax.tree.unflatten(trees[0], leaves)
        key, phase = jax.random.key(0), task.phase(0)
        state, metrics = task.train_step(state, frozen, images, key, phase, codes)
        return jax.tree.leaves(state), metrics

    compiled = jax.jit(step).lower(jax.eval_shape(init, images), images).compile()
    return compiled.cost_analysis()["flops"]


def generator_flops(images):
    """Operations of the generator, forward."""
    module = make_task(make_config(vqgan)).module
    pixels = jax.ShapeDtypeStruct(images.shape, jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), pixels)
    codes = jax.ShapeDtypeStruct((BATCH, SIDE // 2, SIDE // 2), jnp.int32)
    decode = jax.jit(lambda v, codes: module.apply(v, codes, method="decode"))
    return decode.lower(variables, codes).compile().cost_analysis()["flops"]


# Products of a weight of the last layer's 3x3 kernel at every pixel, and of those.
@pytest.mark.parametrize(
    ("module", "products"),
    [(vqgan, SIDE**2 * WIDTH * 3), (codeformer_stage3, (SIDE // 2) ** 2 * (2 * WIDTH) ** 2)],
    ids=["vqgan", "restoration"],
)
def test_adaptive_weight_costs_no_pass_through_the_generator(monkeypatch, module, products):
    images = jax.ShapeDtypeStruct((BATCH, SIDE, SIDE, 3), jnp.uint8)
    adaptive = step_flops(images, module)
    # Constant: the last layer's two gradients become dead code and are not compiled.
    monkeypatch.setattr(losses, "gradient_ratio", lambda *gradients: jnp.float32(1))
    constant = step_flops(images, module)
    last_layer = 2 * BATCH * 9 * products
    # 2 %: the gradients' norms and another fusion of what is cheap.
    bound = 2 * last_layer + 0.02 * constant
    # Taken naively, each of the two losses' last-layer gradients costs at least a backward pass
    # through the generator (behind the last fusion in stage III), or a second evaluation of it:
    # never less than its forward pass.
    assert generator_flops(images) > 2 * bound
    assert 0 < adaptive - constant < bound
