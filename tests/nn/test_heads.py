"""Logits of heads in a bfloat16 computation: products of bfloat16, kept in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.nn import GPT, CodeFormer, GumbelQuantizer, PixelCNN
from codeformer_jax.nn.layers import wide_dot_general

LAST = (((1,), (0,)), ((), ()))


def codeformer():
    fields = {"image_size": 32, "nf": 8, "ch_mult": (1, 2), "res_blocks": 1, "norm_groups": 4}
    fields |= {"emb_dim": 8, "attn_resolutions": (), "codebook_size": 512, "dim_embd": 16}
    module = CodeFormer(**fields, n_head=2, n_layers=1, connect_list=(16,), dtype=jnp.bfloat16)
    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    names = ("idx_pred_layer_0", "idx_pred_layer_1")
    return module, (images,), {"w": 0.0}, names, lambda x: x


def gpt():
    fields = {"vocab_size": 512, "block_size": 64, "n_layer": 1, "n_head": 2, "n_embd": 16}
    module = GPT(**fields, map_size=(8, 8), dtype=jnp.bfloat16)
    return module, (jnp.arange(4 * 64).reshape(4, 64),), {}, ("ln_f", "head"), lambda x: x


def pixelcnn():
    fields = {"levels": 512, "embed_dim": 8, "layers": 1, "features": 8, "head_features": 16}
    module = PixelCNN(**fields, dtype=jnp.bfloat16)
    values = jax.random.randint(jax.random.key(0), (2, 16, 16, 1), 0, 512)
    return module, (values,), {}, ("head_hidden", "head_out"), jax.nn.relu


@pytest.mark.parametrize("make", [codeformer, gpt, pixelcnn])
def test_the_likeliest_code_is_that_of_float32_products(make):
    module, arguments, keywords, (before, head), activation = make()
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments, **keywords))
    normal = np.random.default_rng(0).standard_normal
    variables = jax.tree.map(lambda x: np.float32(0.3 * normal(x.shape)), shapes)
    apply = jax.jit(
        lambda v: module.apply(
            v,
            *arguments,
            **keywords,
            capture_intermediates=lambda m, _: m.name in (before, head),
            mutable="intermediates",
        )[1]["intermediates"]
    )
    with jax.numpy_dtype_promotion("standard"):  # Of JAX's attention, when it is lowered.
        seen = apply(variables)
    inputs, logits = (seen[name]["__call__"][-1] for name in (before, head))
    assert (inputs.dtype, logits.dtype) == (jnp.bfloat16, jnp.float32)
    params = variables["params"][head]
    kernel = jnp.asarray(params["kernel"]).astype(jnp.bfloat16).astype(jnp.float32)
    wide = activation(inputs).astype(jnp.float32).reshape(-1, inputs.shape[-1])
    expected = np.asarray(wide) @ np.asarray(kernel) + params.get("bias", np.float32(0))
    logits = np.asarray(logits).reshape(expected.shape)
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
    assert len(logits) >= 256
    np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))
    rounded = np.asarray(jnp.asarray(expected).astype(jnp.bfloat16).astype(jnp.float32))
    assert np.mean(rounded.argmax(-1) != expected.argmax(-1)) > 0.003  # What they used to be.


def test_gradients_are_those_of_a_result_in_the_inputs_dtype():
    draw = np.random.default_rng(0).standard_normal
    x, kernel = (jnp.asarray(draw(s), jnp.bfloat16) for s in ((6, 8), (8, 5)))
    weights = jnp.asarray(draw((6, 5)), jnp.float32)

    def narrow(x, kernel):
        return jax.lax.dot_general(x, kernel, LAST).astype(jnp.float32)

    def wide(x, kernel):
        return wide_dot_general(x, kernel, LAST)

    def gradients(product):
        return jax.grad(lambda *z: jnp.sum(weights * product(*z)), (0, 1))(x, kernel)

    for a, b in zip(gradients(wide), gradients(narrow), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_array_equal(a, b)
    products = jax.make_jaxpr(jax.grad(lambda *z: jnp.sum(weights * wide(*z)), (0, 1)))(x, kernel)
    backward = [e for e in products.jaxpr.eqns if e.primitive.name == "dot_general"]
    assert {v.aval.dtype for e in backward for v in e.invars} == {jnp.dtype(jnp.bfloat16)}
    _, tangent = jax.jvp(wide, (x, kernel), (x, jnp.zeros_like(kernel)))
    np.testing.assert_array_equal(tangent, narrow(x, kernel))


def test_float32_logits_are_what_they_were():
    x, kernel = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(6, 8), (8, 5)]))
    np.testing.assert_array_equal(wide_dot_general(x, kernel, LAST), x @ kernel)


def test_gumbel_logits_are_float32_products():
    module = GumbelQuantizer(5, 2)
    latents = jax.random.normal(jax.random.key(0), (1, 2, 2, 3))
    variables = module.init(jax.random.key(1), latents)
    half = latents.astype(jnp.bfloat16)
    expected = module.apply(variables, half.astype(jnp.float32)).logits
    np.testing.assert_array_equal(module.apply(variables, half).logits, expected)
