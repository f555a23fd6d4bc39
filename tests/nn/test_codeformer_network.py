import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.nn import VQGAN, CodeFormer
from codeformer_jax.nn.codeformer import Fusion, adaptive_instance_norm

BACKBONE = {
    "image_size": 16,
    "nf": 8,
    "ch_mult": (1, 2),
    "res_blocks": 1,
    "attn_resolutions": (),
    "codebook_size": 16,
    "emb_dim": 4,
    "norm_groups": 4,
}
SMALL = {**BACKBONE, "dim_embd": 8, "n_head": 2, "n_layers": 2, "connect_list": (8, 16)}
IMAGES = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3), minval=-1)


def seeded(module):
    """Variables without a zero among them, so that every part of the network shows."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), IMAGES, w=0.0))
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    draws = [0.3 * jax.random.normal(k, s.shape) for k, s in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, draws)


@pytest.fixture(scope="module")
def network():
    """(module, variables, compiled (variables, images, w), the calls that were traced)."""
    module, traced = CodeFormer(**SMALL), []

    @jax.jit
    def restore(variables, images, w):
        traced.append(w.shape)
        return module.apply(variables, images, w=w)

    return module, seeded(module), restore, traced


def test_a_sweep_of_w_does_not_recompile(network):
    _, variables, restore, traced = network
    before = len(traced)
    results = [restore(variables, IMAGES, jnp.float32(w)).image for w in (0.0, 0.25, 0.7, 1.3)]
    assert len(traced) <= before + 1
    assert all(not np.allclose(results[0], image) for image in results[1:])


def test_w_may_differ_between_images(network):
    _, variables, restore, _ = network
    both = restore(variables, IMAGES, jnp.array([0.0, 1.0]))
    for i, w in enumerate((0.0, 1.0)):
        same = restore(variables, IMAGES, jnp.float32(w))
        np.testing.assert_allclose(both.image[i], same.image[i], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(both.indices, same.indices)


def test_w_zero_is_the_network_without_fusion(network):
    _, variables, restore, _ = network
    output = restore(variables, IMAGES, jnp.float32(0))
    plain = VQGAN(**BACKBONE)
    params = {name: variables["params"][name] for name in ("encoder", "quantize", "generator")}
    maps = output.indices.reshape(2, 8, 8)
    decoded = jax.jit(lambda v, x: plain.apply(v, x, method="decode"))({"params": params}, maps)
    np.testing.assert_allclose(output.image, decoded, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(output.indices, output.logits.argmax(-1))


def names(gradients):
    """Of the top-level parameters, and 'images', whose gradient is not zero."""
    return {
        name for name, g in gradients.items() if any(np.any(x != 0) for x in jax.tree.leaves(g))
    }


def gradients_by_image(module, variables, **options):
    def loss(inputs):
        params, images = inputs["params"], inputs["images"]
        return jnp.mean(jnp.abs(module.apply({"params": params}, images, **options).image))

    found = jax.jit(jax.grad(loss))({**variables, "images": IMAGES})
    return {**found["params"], "images": found["images"]}


def test_image_losses_train_fusion_and_code_losses_the_rest(network):
    _, variables, _, _ = network
    module = CodeFormer(**SMALL, stop_gradients=True)

    def parts(params):
        output = module.apply({"params": params}, IMAGES, w=1.0)
        codes = jnp.mean(output.latents**2) + jnp.mean(jax.nn.log_softmax(output.logits)[..., 0])
        return jnp.mean(jnp.abs(output.image)), codes

    def reached(params):
        _, pullback = jax.vjp(parts, params)
        return [pullback(c)[0] for c in ((1.0, 0.0), (0.0, 1.0))]

    by_image, by_codes = jax.jit(reached)(variables["params"])
    fusion = {"fuse_convs_dict_8", "fuse_convs_dict_16"}
    # The generator is in the image's graph too; training freezes it by not taking its gradient.
    assert names(by_image) == fusion | {"generator"}
    transformer = {"position_emb", "feat_emb", "ft_layers_0", "ft_layers_1"}
    head = {"idx_pred_layer_0", "idx_pred_layer_1"}
    assert names(by_codes) == {"encoder"} | transformer | head


@pytest.mark.slow
@pytest.mark.parametrize("adain", [False, True])
def test_the_image_has_gradients_by_what_it_is_made_of(network, adain):
    module, variables, _, _ = network
    options = {"w": 1.0, "adain": adain}
    fusion = {"fuse_convs_dict_8", "fuse_convs_dict_16"}
    made_of = fusion | {"generator", "quantize", "encoder", "images"}
    assert names(gradients_by_image(module, variables, **options)) == made_of
    stopped = module.clone(stop_gradients=True)
    assert names(gradients_by_image(stopped, variables, **options)) == fusion | {"generator"}


def test_adain_takes_the_statistics_of_the_latents(network):
    module, variables, restore, _ = network
    content, style = (jax.random.normal(jax.random.key(i), (2, 5, 4, 3)) for i in (2, 3))
    style = 3 + 2 * style
    y = np.asarray(adaptive_instance_norm(content, style))
    np.testing.assert_allclose(y.mean((1, 2)), style.mean((1, 2)), rtol=1e-4)
    np.testing.assert_allclose(y.std((1, 2)), style.std((1, 2)), rtol=1e-3)
    with_adain = jax.jit(lambda v, x: module.apply(v, x, w=0.0, adain=True))(variables, IMAGES)
    assert not np.allclose(with_adain.image, restore(variables, IMAGES, jnp.float32(0)).image)


def test_w_is_required():
    with pytest.raises(TypeError, match="w"):
        jax.eval_shape(CodeFormer(**SMALL).init, jax.random.key(0), IMAGES)


def positions(variables, h, w):
    module = CodeFormer(**SMALL)
    return module.apply(variables, h, w, method="_positions")


def test_positions_interpolate():
    module = CodeFormer(**SMALL)
    table = seeded(module)["params"]["position_emb"]
    bound = {"params": {"position_emb": table}}
    np.testing.assert_array_equal(positions(bound, 8, 8)[0], table)
    wider = positions(bound, 8, 12)
    assert wider.shape == (1, 96, 8)
    assert wider.std() > 0.5 * table.std()
    # A plane stays one: tokens of a column keep their value where only rows are added.
    plane = jnp.broadcast_to(jnp.arange(8.0)[None, :, None], (8, 8, 8)).reshape(64, 8)
    longer = positions({"params": {"position_emb": plane}}, 16, 8).reshape(16, 8, 8)
    np.testing.assert_allclose(longer, jnp.broadcast_to(longer[:1], longer.shape), atol=1e-5)
    np.testing.assert_allclose(longer[0, :, 0], jnp.arange(8.0), atol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (8, 24), (10, 14)])
def test_any_size_that_halves(size):
    module = CodeFormer(**SMALL)
    variables = jax.eval_shape(lambda: seeded(module))

    def apply(variables, images):
        output = module.apply(variables, images, w=1.0)
        return output.image, output.logits

    image, logits = jax.eval_shape(apply, variables, jnp.zeros((1, *size, 3)))
    assert image.shape == (1, *size, 3)
    assert logits.shape == (1, size[0] * size[1] // 4, 16)


def test_published_size():
    shapes = jax.eval_shape(
        lambda: CodeFormer().init(jax.random.key(0), jnp.zeros((1, 512, 512, 3)), w=0.0)
    )
    assert round(sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6, 1) == 94.1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_head": 7}, "dim_embd=512 does not divide into n_head=7"),
        ({"connect_list": (32, 48)}, r"connect_list has \[48\], but .* sides \(512, 256, 128"),
        ({"n_layers": 0}, "n_layers must be positive; got 0"),
        ({"quantizer": "gumbel"}, "fixed codebook: quantizer='nearest'"),
        ({"ema_decay": 0.99}, "fixed codebook: quantizer='nearest'"),
        ({"image_size": 500}, "image_size=500 is not divisible by 32"),
        ({"norm_groups": 7}, "width 64 does not divide into norm_groups=7"),
        ({"attn_resolutions": (15,)}, r"attn_resolutions has \[15\]"),
    ],
)
def test_what_does_not_divide_is_refused_at_construction(fields, message):
    with pytest.raises(ValueError, match=message):
        CodeFormer(**fields)


def test_images_that_cannot_be_halved_are_refused(network):
    module, variables, _, _ = network
    with pytest.raises(ValueError, match="images of 15x16 px cannot be halved 1 times"):
        jax.eval_shape(lambda: module.apply(variables, jnp.zeros((1, 15, 16, 3)), w=0.0))


def test_zero_init_fusion_is_the_identity():
    features, encoded = (jax.random.normal(jax.random.key(i), (2, 4, 4, 8)) for i in (0, 1))
    w = jnp.ones((2, 1, 1, 1))
    for zero_init in (True, False):
        module = Fusion(norm_groups=4, zero_init=zero_init)
        variables = module.init(jax.random.key(2), encoded, features, w)
        y = module.apply(variables, encoded, features, w)
        assert np.array_equal(y, features) == zero_init
        np.testing.assert_array_equal(module.apply(variables, encoded, features, 0 * w), features)


def test_zero_init_fusion_still_learns():
    features, encoded = (jax.random.normal(jax.random.key(i), (2, 4, 4, 8)) for i in (0, 1))
    module, w = Fusion(norm_groups=4), jnp.ones((2, 1, 1, 1))
    variables = module.init(jax.random.key(2), encoded, features, w)
    gradients = jax.grad(lambda v: jnp.sum(module.apply(v, encoded, features, w) ** 2))(variables)
    for name in ("scale_2", "shift_2"):
        assert np.abs(gradients["params"][name]["kernel"]).max() > 0


def test_bfloat16_computes_but_keeps_float32_outside(network):
    module, variables, restore, _ = network
    half = module.copy(dtype=jnp.bfloat16)
    output = jax.jit(lambda v, x: half.apply(v, x, w=1.0))(variables, IMAGES)
    assert output.image.dtype == output.logits.dtype == output.latents.dtype == jnp.float32
    exact = restore(variables, IMAGES, jnp.float32(1)).latents
    error = jnp.linalg.norm(output.latents - exact) / jnp.linalg.norm(exact)
    assert 1e-4 < error < 0.1
