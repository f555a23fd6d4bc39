"""Rematerialisation changes what is kept, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.convert.networks import build_module, module_fields
from codeformer_jax.nn import VQGAN, CodeFormer
from codeformer_jax.nn.remat import POLICIES, compiler_options

SMALL = {
    "image_size": 16,
    "nf": 8,
    "ch_mult": (1, 2),
    "res_blocks": 1,
    "attn_resolutions": (8,),
    "codebook_size": 16,
    "emb_dim": 8,
    "norm_groups": 4,
}
NETWORKS = {
    "vqgan": (VQGAN, SMALL, {}),
    "codeformer": (
        CodeFormer,
        {**SMALL, "dim_embd": 16, "n_head": 2, "n_layers": 2, "connect_list": (8, 16)},
        {"w": 0.7},
    ),
}


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(3), (2, 16, 16, 3), minval=-1.0)


def loss(module, arguments, images):
    def total(params):
        output = module.apply({"params": params}, images, **arguments)
        logits = getattr(output, "logits", None)
        rest = jnp.mean(output.latents**2) if logits is None else jnp.mean(jax.nn.tanh(logits))
        return jnp.mean((output.image - images) ** 2) + rest

    return total


def residuals(module, arguments, params, images):
    """Bytes that the forward pass keeps for the backward pass, parameters aside."""
    kept = jax.eval_shape(lambda p: jax.vjp(loss(module, arguments, images), p)[1], params)
    own = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept)) - own


@pytest.mark.slow
def test_gradients_and_names_are_those_without(images):
    """Of CodeFormer, which has every kind of block that can be computed again."""
    cls, fields, arguments = NETWORKS["codeformer"]
    plain = cls(**fields)
    shapes = jax.eval_shape(lambda k: plain.init(k, images, **arguments), jax.random.key(0))
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(random.normal(0, max(x.size, 4) ** -0.25, x.shape), x.dtype),
        shapes["params"],
    )
    expected = jax.jit(jax.grad(loss(plain, arguments, images)))(params)
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
    for policy in ("full", "dots"):
        module = cls(**fields, remat=policy)
        shapes = jax.eval_shape(
            lambda k, m=module: m.init(k, images, **arguments), jax.random.key(0)
        )
        assert jax.tree.structure(shapes["params"]) == jax.tree.structure(params)
        gradient = jax.grad(loss(module, arguments, images))
        gradients = jax.jit(gradient, compiler_options=compiler_options(policy, "cpu"))(params)
        for left, right in zip(*map(jax.tree.leaves, (gradients, expected)), strict=True):
            np.testing.assert_allclose(left, right, rtol=0, atol=1e-5 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_each_policy_keeps_what_it_says(images, network):
    cls, fields, arguments = NETWORKS[network]
    params = jax.eval_shape(lambda k: cls(**fields).init(k, images, **arguments), jax.random.key(0))
    kept = {
        policy: residuals(cls(**fields, remat=policy), arguments, params["params"], images)
        for policy in (None, *POLICIES)
    }
    assert kept["full"] == kept["nothing_saveable"]
    assert kept["full"] < kept["dots"] < kept["everything_saveable"]
    assert kept["dots"] == kept["dots_saveable"]
    assert kept["full"] < 0.6 * kept[None]


def test_the_compiler_is_told_where_it_has_to_be():
    assert compiler_options("full", "cpu")
    assert compiler_options(None, "cpu") == compiler_options("full", "gpu") == {}


def test_unknown_policy_names_the_known_ones():
    with pytest.raises(ValueError, match=r"remat is 'half'; expected None or one of full, dots"):
        VQGAN(**SMALL, remat="half")


def test_model_files_say_nothing_of_it():
    fields = module_fields(VQGAN(**SMALL, remat="full"))
    assert "remat" not in fields
    assert build_module("vqgan", fields).remat is None
