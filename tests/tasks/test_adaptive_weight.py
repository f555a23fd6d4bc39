"""What the adaptive weight of the adversarial loss costs."""

import jax
import jax.numpy as jnp

from codeformer_jax import losses
from codeformer_jax.tasks import make_task
from configs import vqgan

BATCH, SIDE, WIDTH = 2, 32, 32


def make_config():
    config = vqgan.get_config().unlock()
    config.model.update(
        image_size=SIDE,
        nf=WIDTH,
        ch_mult=(1, 2),
        res_blocks=1,
        attn_resolutions=(),
        codebook_size=32,
        emb_dim=16,
        norm_groups=8,
    )
    config.discriminator.update(ndf=8, n_layers=1)
    config.loss.update(perceptual_weight=0.0, gan_start=0)
    return config


def step_flops(images):
    """Operations of the compiled step: what nothing depends on is not among them."""
    task, trees = make_task(make_config()), []

    # Leaves instead of the state itself: its fields are checked to be arrays, not shapes.
    def init(images):
        leaves, tree = jax.tree.flatten(task.init(jax.random.key(0), images, None))
        trees.append(tree)
        return leaves

    def step(leaves, images):
        state = jax.tree.unflatten(trees[0], leaves)
        state, metrics = task.train_step(state, {}, images, jax.random.key(0), task.phase(0))
        return jax.tree.leaves(state), metrics

    compiled = jax.jit(step).lower(jax.eval_shape(init, images), images).compile()
    return compiled.cost_analysis()["flops"]


def generator_flops(images):
    """Operations of the generator, forward."""
    module = make_task(make_config()).module
    pixels = jax.ShapeDtypeStruct(images.shape, jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), pixels)
    codes = jax.ShapeDtypeStruct((BATCH, SIDE // 2, SIDE // 2), jnp.int32)
    decode = jax.jit(lambda v, codes: module.apply(v, codes, method="decode"))
    return decode.lower(variables, codes).compile().cost_analysis()["flops"]


def test_adaptive_weight_costs_no_pass_through_the_generator(monkeypatch):
    images = jax.ShapeDtypeStruct((BATCH, SIDE, SIDE, 3), jnp.uint8)
    adaptive = step_flops(images)
    # Constant: the last layer's two gradients become dead code and are not compiled.
    monkeypatch.setattr(losses, "gradient_ratio", lambda *gradients: jnp.float32(1))
    constant = step_flops(images)
    # Two products for each of the 3x3 x WIDTH x 3 weights at every pixel.
    last_layer = 2 * BATCH * SIDE**2 * 9 * WIDTH * 3
    # 2 %: the gradients' norms and another fusion of what is cheap.
    bound = 2 * last_layer + 0.02 * constant
    # Taken naively, each of the two losses' last-layer gradients costs at least a backward pass
    # through the generator, or a second evaluation of it: never less than its forward pass.
    assert generator_flops(images) > 2 * bound
    assert 0 < adaptive - constant < bound
