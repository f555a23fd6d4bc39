"""Autoencoder and transformer of "Taming Transformers" against published code (PyTorch)."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from parity import support

from codeformer_jax.losses import cross_entropy


@pytest.mark.parametrize(("name", "kept"), [("vqgan_small", 1), ("vqgan_f16_1024", 4)])
def test_taming_vqgan(name, kept):
    fixture = support.load(f"taming_{name}")
    config = support.table(fixture, "config")
    settings = config["ddconfig"]
    side = settings["resolution"]
    module, variables = support.seeded("taming_vqgan", fixture, image_size=side)
    read = (module.nf, module.ch_mult, module.res_blocks, module.attn_resolutions)
    expected = ("ch", "ch_mult", "num_res_blocks", "attn_resolutions")
    assert [list(v) if isinstance(v, tuple) else v for v in read] == [settings[n] for n in expected]
    assert (module.codebook_size, module.emb_dim) == (config["n_embed"], config["embed_dim"])
    output = support.jit(module.apply)(variables, support.images(side, 0))
    pixels = np.asarray(output.image)
    support.assert_arrays(
        {
            "latents": (output.latents, fixture["latents"]),
            "indices": (output.indices[0], fixture["indices"]),
            "reconstruction": (pixels[:, ::kept, ::kept], fixture["reconstruction"]),
            "reconstruction_mean": (pixels.mean((1, 2)), fixture["reconstruction_mean"]),
            "reconstruction_std": (pixels.std((1, 2)), fixture["reconstruction_std"]),
        }
    )
    # The loss's value is the same wherever beta is; its gradients are not, see test_quantizer.py.
    support.assert_scalars({"loss": output.codebook_loss}, {"loss": float(fixture["loss"])})


def test_taming_gpt():
    """The fixture's seeded masks have no zeros, so that published code hid nothing from a token.

    Its sampler applies no mask: a token sees those before it in any case. So logits and loss are of
    a transformer without a mask, and the greedy continuation is of a causal one.
    """
    fixture = support.load("taming_gpt")
    config = support.table(fixture, "config")
    module, variables = support.seeded("taming_gpt", fixture, n_head=config.pop("n_head"))
    assert {name: getattr(module, name) for name in config} == config
    assert module.n_unmasked == config["block_size"]
    tokens = jnp.asarray(fixture["tokens"])
    logits = support.jit(module.apply)(variables, tokens[:, :-1])
    support.assert_arrays({"logits": (logits, fixture["logits"])})
    loss = cross_entropy(logits, tokens[:, 1:])
    support.assert_scalars({"loss": loss}, {"loss": float(fixture["loss"])})

    greedy = fixture["greedy_from_first_token"]
    causal = module.clone(n_unmasked=0)
    seen = np.concatenate([tokens[:, :1], greedy[:, :-1]], axis=1)
    at_once = np.argmax(support.jit(causal.apply)(variables, seen), axis=-1)
    one_by_one = greedily(module, variables, tokens[:, :1], greedy.shape[1])
    pairs = {"cached": (one_by_one, greedy), "at once": (at_once, greedy)}
    support.assert_arrays(pairs)


def greedily(module, variables, tokens, count):
    """The likeliest continuation, by a prefill and one-token steps."""
    prefill = support.jit(functools.partial(module.apply, method="prefill"), static_argnums=3)
    step = support.jit(functools.partial(module.apply, method="step"))
    logits, cache = prefill(variables, tokens, jnp.int32(tokens.shape[1]), tokens.shape[1] + count)
    found = []
    for _ in range(count):
        found.append(jnp.argmax(logits, axis=-1))
        logits, cache = step(variables, found[-1], cache)
    return np.stack(found, axis=1)


def test_diffusers_vqmodel():
    """Made with `diffusers` 0.30.3: its names, its order of levels, its attention."""
    fixture = support.load("diffusers_vqmodel")
    module, variables = support.seeded("taming_vqgan", fixture, image_size=32, norm_groups=16)
    assert (module.ch_mult, module.attn_resolutions) == ((1, 2), (16,))
    assert (module.z_channels, module.emb_dim, module.codebook_size) == (8, 6, 32)
    output = support.jit(module.apply)(variables, support.images(32, 0))
    support.assert_arrays(
        {
            "latents": (output.latents, fixture["latents"]),
            "indices": (output.indices[0], fixture["indices"]),
            "reconstruction": (output.image, fixture["reconstruction"]),
        }
    )
