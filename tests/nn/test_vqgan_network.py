import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.nn import VQGAN

SMALL = {
    "image_size": 16,
    "nf": 8,
    "ch_mult": (1, 2),
    "res_blocks": 1,
    "attn_resolutions": (8,),
    "codebook_size": 16,
    "emb_dim": 4,
    "norm_groups": 4,
}


def shapes(module, *images):
    """(variables, {field of the output}) as shapes; nothing is computed."""
    x = jnp.zeros(images)

    def apply(variables, x):
        output = module.apply(variables, x)
        return {**vars(output.quantized), **vars(output), "quantized": None}

    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    return variables, jax.eval_shape(apply, variables, x)


@pytest.fixture(scope="module")
def small():
    module = VQGAN(**SMALL)
    images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3), minval=-1)
    return module, jax.jit(module.init)(jax.random.key(1), images), images


@pytest.mark.parametrize(
    ("fields", "latents"),
    [
        ({}, (16, 16, 256)),
        ({"image_size": 256, "attn_resolutions": (8, 16)}, (8, 8, 256)),
        (
            {"image_size": 64, "nf": 32, "ch_mult": (1, 2, 2), "codebook_size": 128, "emb_dim": 64},
            (16, 16, 64),
        ),
        ({"image_size": 96, "ch_mult": [2, 3], "nf": 32, "attn_resolutions": []}, (48, 48, 256)),
        (
            {
                "image_size": 20,
                "attn_resolutions": (20,),
                "nf": 6,
                "ch_mult": (1,),
                "norm_groups": 3,
            },
            (20, 20, 256),
        ),
    ],
)
def test_sizes_and_widths(fields, latents):
    module = VQGAN(**fields)
    side = module.image_size
    _, output = shapes(module, 2, side, side, 3)
    assert output["image"].shape == (2, side, side, 3)
    assert output["latents"].shape == (2, *latents)
    assert output["indices"].shape == (2, latents[0] * latents[1])
    assert output["code_counts"].shape == (module.codebook_size,)


def test_published_size():
    variables, _ = shapes(VQGAN(), 1, 512, 512, 3)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert round(count / 1e6, 2) == 63.74


def test_images_need_not_be_square_or_of_image_size():
    module = VQGAN(**SMALL)
    _, output = shapes(module, 1, 24, 10, 3)
    assert output["image"].shape == (1, 24, 10, 3)
    assert output["latents"].shape == (1, 12, 5, 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"image_size": 510},
            "image_size=510 is not divisible by 32, the downsampling of 6 levels",
        ),
        ({"nf": 48}, "a level of width 48 does not divide into norm_groups=32; change nf=48"),
        ({"norm_groups": 5}, "width 64 does not divide into norm_groups=5"),
        ({"attn_resolutions": (16, 24)}, r"attn_resolutions has \[24\], but .* sides \(512, 256"),
        ({"quantizer": "neural"}, "quantizer='neural' is unknown; expected one of nearest, gumbel"),
        ({"ch_mult": ()}, r"ch_mult must hold positive integers; got \(\)"),
        ({"ch_mult": (1, 0)}, r"ch_mult must hold positive integers; got \(1, 0\)"),
        ({"codebook_size": 0}, "codebook_size must be positive; got 0"),
        ({"image_size": -512}, "image_size must be positive; got -512"),
        ({"norm_groups": 0}, "norm_groups must be positive; got 0"),
        ({"temperature": 0.0}, "temperature is 0.0; expected a positive number"),
        ({"temperature_final": -1.0}, "temperature_final is -1.0; expected a positive number"),
        ({"temperature_steps": -1}, "temperature_steps is -1; expected 0 or more"),
        ({"kl_weight": float("nan")}, "kl_weight is nan; expected 0 or more"),
    ],
)
def test_what_does_not_divide_is_refused_at_construction(fields, message):
    with pytest.raises(ValueError, match=message):
        VQGAN(**fields)


def test_unknown_beta_on_is_refused():
    with pytest.raises(ValueError, match="beta_on is 'sum'; expected 'commitment' or 'codebook'"):
        shapes(VQGAN(**SMALL, beta_on="sum"), 1, 16, 16, 3)


def test_images_that_cannot_be_halved_are_refused():
    module = VQGAN(image_size=64, ch_mult=(1, 1, 1), attn_resolutions=())
    variables, _ = shapes(module, 1, 64, 64, 3)
    with pytest.raises(ValueError, match=r"images of 64x66 px cannot be halved 2 times; .* of 4"):
        jax.eval_shape(lambda: module.apply(variables, jnp.zeros((1, 64, 66, 3))))


def test_decode_and_encode_are_the_halves_of_the_network(small):
    module, variables, images = small
    output = jax.jit(module.apply)(variables, images)
    codes = jax.jit(lambda v, x: module.apply(v, x, method="encode"))(variables, images)
    np.testing.assert_array_equal(codes.indices, output.indices)
    maps = output.indices.reshape(2, 8, 8)
    image = jax.jit(lambda v, x: module.apply(v, x, method="decode"))(variables, maps)
    np.testing.assert_allclose(image, output.image, atol=1e-5)


def test_gradients_reach_every_parameter(small):
    module, variables, images = small

    def loss(params):
        output = module.apply({"params": params}, images)
        return jnp.mean((output.image - images) ** 2) + output.codebook_loss

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    silent = [
        jax.tree_util.keystr(path)
        for path, g in jax.tree_util.tree_leaves_with_path(gradients)
        if not np.abs(g).max() > 0
    ]
    assert silent == []


def test_bfloat16_computes_but_keeps_float32_outside(small):
    module, variables, images = small
    half = module.copy(dtype=jnp.bfloat16)
    fresh = jax.eval_shape(half.init, jax.random.key(1), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}
    output, exact = (jax.jit(m.apply)(variables, images) for m in (half, module))
    assert output.image.dtype == output.latents.dtype == output.codebook_loss.dtype == jnp.float32
    error = jnp.linalg.norm(output.latents - exact.latents) / jnp.linalg.norm(exact.latents)
    # Close to float32, but not it.
    assert 1e-4 < error < 0.1
    assert jnp.isfinite(output.image).all()


def test_gumbel_and_moving_average_are_options():
    variables, output = shapes(VQGAN(**SMALL, quantizer="gumbel"), 1, 16, 16, 3)
    assert set(variables["params"]["quantize"]) == {"proj", "embed"}
    assert output["logits"].shape == (1, 8, 8, 16)
    variables, _ = shapes(VQGAN(**SMALL, ema_decay=0.99), 1, 16, 16, 3)
    assert "quantize" not in variables["params"]
    assert set(variables["codebook"]["quantize"]) == {"embedding", "counts", "sums"}


def test_gumbel_temperature_falls_by_a_cosine():
    module = VQGAN(**SMALL, temperature=1.0, temperature_final=1 / 16, temperature_steps=100)
    seen = [module.temperature_at(jnp.int32(step)) for step in (0, 50, 100, 1000)]
    np.testing.assert_allclose(seen, [1.0, (1 + 1 / 16) / 2, 1 / 16, 1 / 16], rtol=1e-6)
    assert VQGAN(**SMALL, temperature=0.5).temperature_at(jnp.int32(7)) == 0.5


@pytest.mark.slow
def test_forward_mode_is_the_transpose_of_reverse_mode(small):
    """Through encoder and decoder, by `jax.jvp` and by `jax.jacfwd`."""
    module, variables, images = small

    @jax.jit
    def products(direction, cotangent):
        def reconstruct(images):
            return module.apply(variables, images).image

        def along(step):
            return reconstruct(images + step * direction)

        forward = jax.jvp(reconstruct, (images,), (direction,))[1]
        (reverse,) = jax.vjp(reconstruct, images)[1](cotangent)
        return jnp.stack(
            [
                jnp.vdot(forward, cotangent),
                jnp.vdot(jax.jacfwd(along)(0.0), cotangent),
                jnp.vdot(direction, reverse),
            ]
        )

    found = products(jnp.sin(3 * images), jnp.cos(5 * images))
    assert abs(found[2]) > 1e-2
    np.testing.assert_allclose(found, jnp.full(3, found[2]), rtol=1e-3)
