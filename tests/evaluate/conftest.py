"""Tiny networks and a set of pictures that every test here shares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.nn import VQGAN, CodeFormer

BACKBONE = {
    "image_size": 32,
    "nf": 8,
    "norm_groups": 4,
    "ch_mult": (1, 2),
    "attn_resolutions": (16,),
    "res_blocks": 1,
    "codebook_size": 16,
    "emb_dim": 8,
}
TRANSFORMER = {"dim_embd": 16, "n_head": 2, "n_layers": 1, "connect_list": (32,)}


class Pictures(list):
    """A source: the elements themselves."""


@pytest.fixture(scope="session")
def source():
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 32)
    elements = Pictures()
    for index in range(11):
        a, b, c = rng.uniform(-1, 1, (3, 3))
        image = 0.5 + 0.25 * (a * ramp[:, None, None] + b * ramp[None, :, None]) + 0.1 * c
        image = np.clip(image + rng.normal(0, 0.03, (32, 32, 3)), 0, 1)
        name = f"folder/<{index:02d}> & co.png"
        elements.append({"image": (255 * image).astype(np.uint8), "name": name})
    return elements


@pytest.fixture(scope="session")
def codeformer():
    module = CodeFormer(**BACKBONE, **TRANSFORMER, fusion_zero_init=False)
    images = jnp.zeros((1, 32, 32, 3))
    return module, jax.jit(lambda key: module.init(key, images, w=1.0))(jax.random.key(0))


@pytest.fixture(scope="session")
def vqgan():
    module = VQGAN(**BACKBONE)
    variables = jax.jit(module.init)(jax.random.key(1), jnp.zeros((1, 32, 32, 3)))
    # Codes as far apart as the latents, so that more than one of them is used.
    embedding = jax.random.normal(jax.random.key(2), (16, 8))
    params = variables["params"] | {"quantize": {"embedding": embedding}}
    return module, {**variables, "params": params}
