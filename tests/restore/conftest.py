"""A tiny CodeFormer with random weights, and pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.convert import save_model
from codeformer_jax.nn import VQGAN, CodeFormer
from codeformer_jax.restore import Restorer

FIELDS = {
    "image_size": 32,
    "nf": 8,
    "res_blocks": 1,
    "norm_groups": 4,
    "ch_mult": (1, 2),
    "attn_resolutions": (16,),
    "codebook_size": 16,
    "emb_dim": 8,
    "dim_embd": 16,
    "n_head": 2,
    "n_layers": 1,
    "connect_list": (32,),
    "fusion_zero_init": False,
}


def draw_variables(module, *args, **kwargs):
    """Variables drawn by NumPy, as compiling `init` takes longer than all of these tests."""
    shapes = jax.eval_shape(lambda key: module.init(key, *args, **kwargs), jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if leaf.ndim == 1:
            return jnp.full(leaf.shape, path[-1].key == "scale", jnp.float32)
        values = rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
        return jnp.asarray(values, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="session")
def draw():
    """draw(module, *arguments of its init) -> variables"""
    return draw_variables


@pytest.fixture(scope="session")
def network():
    """(module, variables)"""
    module = CodeFormer(**FIELDS)
    return module, draw_variables(module, jnp.zeros((1, 32, 32, 3)), w=0.5)


@pytest.fixture(scope="session")
def model_file(network, tmp_path_factory):
    """The network as a model file."""
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    save_model(path, "codeformer", *network)
    return path


@pytest.fixture
def embedded_network(model_file, monkeypatch):
    """The network in place of the one that ships."""
    monkeypatch.setattr("codeformer_jax.restore.embedded.FILE", model_file)


@pytest.fixture(scope="session")
def vqgan_file(tmp_path_factory):
    """A model file of another network."""
    module = VQGAN(image_size=32, nf=8, ch_mult=(1, 2), norm_groups=4, codebook_size=16, emb_dim=8)
    path = tmp_path_factory.mktemp("models") / "vqgan.safetensors"
    save_model(path, "vqgan", module, draw_variables(module, jnp.zeros((1, 32, 32, 3))))
    return path


@pytest.fixture(scope="session")
def restorer(network):
    return Restorer(*network, batch_size=4)


@pytest.fixture
def picture():
    """picture(height, width, seed=0) -> a smooth colour picture, uint8 [h, w, 3]"""

    def draw(height, width, seed=0):
        phases = np.random.default_rng(seed).uniform(0, 6, (2, 3))
        y, x = np.arange(height)[:, None, None], np.arange(width)[:, None]
        waves = np.sin(6 * y / height + phases[0]) + np.sin(6 * x / width + phases[1])
        return np.round(waves * 60 + 128).clip(0, 255).astype(np.uint8)

    return draw
