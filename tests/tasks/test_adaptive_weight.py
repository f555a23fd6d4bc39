"""Cost of the adaptive weight of the adversarial loss."""

import jax
import jax.numpy as jnp
import pytest

from codeformer_jax import losses
from codeformer_jax.tasks import make_task
from configs import codeformer_stage3, vqgan

BATCH, SIDE, WIDTH, CODES, LENGTH = 2, 32, 32, 32, 16
KEY = jax.random.key(0)


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
    codes = {"codes": jnp.zeros((BATCH, (SIDE // 2) ** 2), jnp.int32)}
    extras = codes if task.needs_teacher else {}

    # Leaves instead of the state itself: its fields are checked to be arrays, not shapes.
    def init(images):
        leaves, tree = jax.tree.flatten(task.init(KEY, images, None))
        trees.append(tree)
        return leaves

    def step(leaves, images):
        state = jax.tree.unflatten(trees[0], leaves)
        state, metrics = task.train_step(state, frozen, images, KEY, task.phase(0), **extras)
        return jax.tree.leaves(state), metrics

    compiled = jax.jit(step).lower(jax.eval_shape(init, images), images).compile()
    return compiled.cost_analysis()["flops"]


def pass_flops(images, module):
    """Operations of what lies behind the trained block, forward; in stage I the generator's."""
    task = make_task(make_config(module))
    pixels = jax.ShapeDtypeStruct(images.shape, jnp.float32)
    half = (BATCH, SIDE // 2, SIDE // 2)
    if task.network == "vqgan":
        given, method, settings = jax.ShapeDtypeStruct(half, jnp.int32), "decode", {}
    else:
        features = (*half, 2 * WIDTH)
        given, method = jax.ShapeDtypeStruct(features, jnp.float32), "finish"
        settings = {"w": 1.0}
    variables = jax.eval_shape(lambda k, x: task.module.init(k, x, **settings), KEY, pixels)
    forward = jax.jit(lambda v, x: task.module.apply(v, x, method=method))
    return forward.lower(variables, given).compile().cost_analysis()["flops"]


# Products for one tap of the last layer's 3x3 kernel and one image: sites, channels in and out.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "products"),
    [(vqgan, SIDE**2 * WIDTH * 3), (codeformer_stage3, (SIDE // 2) ** 2 * (2 * WIDTH) ** 2)],
    ids=["vqgan", "restoration"],
)
def test_adaptive_weight_costs_the_last_layers_gradients_alone(monkeypatch, module, products):
    """In stage III both losses are pulled back to the last fusion, for a constant weight too."""
    images = jax.ShapeDtypeStruct((BATCH, SIDE, SIDE, 3), jnp.uint8)
    adaptive = step_flops(images, module)
    # Constant: the last layer's two gradients become dead code and are not compiled.
    monkeypatch.setattr(losses, "gradient_ratio", lambda *gradients: jnp.float32(1))
    constant = step_flops(images, module)
    last_layer = 2 * BATCH * 9 * products
    # 1 %: the gradients' norms and another fusion of what is cheap.
    bound = 2 * last_layer + 0.01 * constant
    # Taken naively, each of the two losses' last-layer gradients costs at least a backward pass
    # through what lies behind, or a second evaluation of it: never less than its forward pass.
    assert pass_flops(images, module) > bound
    assert 0 < adaptive - constant < bound
