"""The VQ-VAE's sizes, its transposed convolution against PyTorch's, and its halves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.nn import VQVAE
from codeformer_jax.nn.vqvae import TransposedConv

SMALL = {"image_size": 16, "hidden": 8, "res_blocks": 1, "codebook_size": 16, "emb_dim": 4}


@pytest.fixture(scope="module")
def small():
    module = VQVAE(**SMALL)
    images = jax.random.uniform(jax.random.key(0), (2, 16, 24, 3), minval=-1)
    return module, jax.jit(module.init)(jax.random.key(1), images), images


def test_published_layers():
    """Two strided 4x4 convolutions, two residual 3x3/1x1 blocks, 256 units, and back."""
    variables = jax.eval_shape(VQVAE().init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    shapes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"])
    }
    residual = {
        f"{side}/res{i}/conv{n}/kernel": (k, k, 256, 256)
        for side in ("encoder", "decoder")
        for i in (1, 2)
        for n, k in ((1, 3), (2, 1))
    }
    kernels = {
        "encoder/down1/kernel": (4, 4, 3, 256),
        "encoder/down2/kernel": (4, 4, 256, 256),
        "encoder/head/kernel": (1, 1, 256, 64),
        "quantize/embedding": (512, 64),
        "decoder/stem/kernel": (3, 3, 64, 256),
        "decoder/up1/kernel": (4, 4, 256, 256),
        "decoder/up2/kernel": (4, 4, 256, 3),
        **residual,
    }
    assert {name: s for name, s in shapes.items() if not name.endswith("bias")} == kernels


def test_transposed_convolution_is_the_adjoint_of_the_strided_one():
    """<conv(x), y> = <x, transposed(y)> with the kernel turned, for every x and y."""
    module = TransposedConv(3)
    y = jax.random.normal(jax.random.key(0), (1, 3, 5, 2))
    variables = module.init(jax.random.key(1), y)
    kernel = variables["params"]["kernel"]
    variables = {"params": {"kernel": kernel, "bias": jnp.zeros(3)}}
    # As a convolution of the larger picture: [4, 4, 3, 2], both sides turned round.
    forward = jnp.flip(kernel, (0, 1)).transpose(0, 1, 3, 2)

    def strided(x):
        return jax.lax.conv_general_dilated(
            x, forward, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    _, adjoint = jax.vjp(strided, jnp.zeros((1, 6, 10, 3)))
    np.testing.assert_allclose(module.apply(variables, y), adjoint(y)[0], rtol=1e-5, atol=1e-6)


def test_decode_and_encode_are_the_halves_of_the_network(small):
    module, variables, images = small
    output = module.apply(variables, images)
    quantized = module.apply(variables, images, method="encode")
    assert output.image.shape == images.shape
    assert output.latents.shape == (2, 4, 6, 4)
    np.testing.assert_array_equal(output.indices, quantized.indices)
    decoded = module.apply(variables, output.indices.reshape(2, 4, 6), method="decode")
    np.testing.assert_allclose(decoded, output.image, rtol=1e-5, atol=1e-6)


def test_reconstruction_reaches_the_encoder_and_not_the_codebook(small):
    module, variables, images = small

    def error(params):
        return jnp.mean((module.apply({"params": params}, images).image - images) ** 2)

    gradients = jax.grad(error)(variables["params"])
    sizes = {
        name: max(jnp.abs(x).max() for x in jax.tree.leaves(g)) for name, g in gradients.items()
    }
    assert sizes["encoder"] > 0
    assert sizes["decoder"] > 0
    assert sizes["quantize"] == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 30}, "image_size=30 is not divisible by 4"),
        ({"hidden": 0}, "hidden must be positive; got 0"),
        ({"res_blocks": -1}, "res_blocks must not be negative; got -1"),
    ],
)
def test_sizes_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        VQVAE(**SMALL | fields)


def test_images_that_cannot_be_halved_are_refused(small):
    module, variables, _ = small
    with pytest.raises(ValueError, match=r"images of 16x18 px cannot be halved 2 times; .* of 4"):
        module.apply(variables, jnp.zeros((1, 16, 18, 3)))
