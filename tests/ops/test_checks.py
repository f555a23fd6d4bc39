"""Wrong inputs are answered with what to pass instead; NumPy arrays are as good as JAX's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax import losses, metrics
from codeformer_jax.nn import (
    GPT,
    LPIPS,
    VQGAN,
    VQVAE,
    CodeFormer,
    GumbelQuantizer,
    PatchDiscriminator,
    PixelCNN,
    TamingVQGAN,
    VectorQuantizer,
)
from codeformer_jax.ops import checks
from codeformer_jax.sampling import sample_gpt, sample_pixelcnn, start_tokens

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
SMALL = {"dim_embd": 8, "n_head": 2, "n_layers": 1, "connect_list": (8,)}
GPT_SMALL = GPT(16, 8, 1, 2, 8, map_size=(2, 2))
PIXELCNN = PixelCNN(4, levels=16, layers=1, features=4, head_features=4, embed_dim=4)
PIXELS = np.zeros((2, 16, 16, 3), np.float32)
LATENTS = np.zeros((2, 4, 4, 4), np.float32)
CODES = np.zeros((2, 4), np.int64)  # As NumPy counts.

# name -> module, arguments, keyword arguments
NETWORKS = {
    "VQGAN": (VQGAN(**BACKBONE), (PIXELS,), {}),
    "TamingVQGAN": (TamingVQGAN(**BACKBONE, z_channels=8), (PIXELS,), {}),
    "VQVAE": (VQVAE(16, 8, 1, 16, 4), (PIXELS,), {}),
    "CodeFormer": (CodeFormer(**BACKBONE, **SMALL), (PIXELS,), {"w": 0.5}),
    "PatchDiscriminator": (PatchDiscriminator(4, 1), (PIXELS,), {"train": False}),
    "LPIPS": (LPIPS(), (PIXELS, PIXELS), {}),
    "VectorQuantizer": (VectorQuantizer(16, 4), (LATENTS,), {}),
    "GumbelQuantizer": (GumbelQuantizer(16, 4), (LATENTS,), {}),
    "GPT": (GPT_SMALL, (CODES,), {}),
    "PixelCNN": (PIXELCNN, (CODES.reshape(2, 2, 2, 1),), {}),
}
IN_PIXELS = ("VQGAN", "TamingVQGAN", "VQVAE", "CodeFormer", "PatchDiscriminator", "LPIPS")
OF_FLOATS = (*IN_PIXELS, "VectorQuantizer", "GumbelQuantizer")


def shapes(name, *arguments):
    module, given, options = NETWORKS[name]
    arguments = (*arguments, *given[len(arguments) :])

    def initialize():
        return jax.tree.leaves(module.init_with_output(jax.random.key(0), *arguments, **options))

    return jax.eval_shape(initialize)


@pytest.mark.parametrize("name", NETWORKS)
def test_numpy_arrays_are_accepted(name):
    ours = shapes(name)
    assert ours == shapes(name, *map(jnp.asarray, NETWORKS[name][1]))


@pytest.mark.parametrize("name", IN_PIXELS)
def test_uint8_images_are_refused_with_how_to_scale_them(name):
    images = np.zeros((2, 16, 16, 3), np.uint8)
    with pytest.raises(TypeError, match=r"images are uint8 \[2, 16, 16, 3\]; pass float32 in \[-1"):
        shapes(name, images)
    # The advice is good.
    shapes(name, images.astype("float32") / 127.5 - 1)


@pytest.mark.parametrize("name", OF_FLOATS)
def test_float64_is_refused(name):
    with pytest.raises(TypeError, match=r'are float64 .*; pass float32: \w+\.astype\("float32"\)'):
        shapes(name, NETWORKS[name][1][0].astype(np.float64))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_missing_batch_axis_is_named(name):
    with pytest.raises(ValueError, match=r"expected \[batch, .*; add a batch axis: \w+\[None\]"):
        shapes(name, NETWORKS[name][1][0][0])


@pytest.mark.parametrize("name", ["GPT", "PixelCNN"])
def test_floats_are_no_codes(name):
    with pytest.raises(TypeError, match=r'are float32 .*; pass integers: \w+\.astype\("int32"\)'):
        shapes(name, NETWORKS[name][1][0].astype(np.float32))


def test_channels_first_is_told_from_a_wrong_number():
    with pytest.raises(ValueError, match=r"channels to the end: images\.transpose\(0, 2, 3, 1\)"):
        checks.as_images(np.zeros((2, 3, 16, 16), np.float32))
    with pytest.raises(ValueError, match=r"are float32 \[2, 16, 16, 1\]; expected .*width, 3\]$"):
        checks.as_images(np.zeros((2, 16, 16, 1), np.float32))
    with pytest.raises(TypeError, match="NumPy or JAX array; got a list"):
        checks.as_images([[0.0]])


def test_float64_is_taken_where_it_is_the_dtype_of_the_computation():
    with jax.enable_x64():
        images = checks.as_images(PIXELS.astype(np.float64), dtype=jnp.float64)
    assert images.dtype == jnp.float64


@pytest.mark.parametrize("method", ["encode", "predict"])
def test_methods_check_as_well(method):
    module = NETWORKS["CodeFormer"][0]
    with pytest.raises(TypeError, match="uint8"):
        jax.eval_shape(
            lambda: module.init(jax.random.key(0), PIXELS.astype(np.uint8), method=method)
        )


def test_codes_to_decode():
    module = NETWORKS["VQVAE"][0]

    def decoded(codes):
        return jax.eval_shape(lambda: module.init(jax.random.key(0), codes, method="decode"))

    decoded(np.zeros((2, 4, 4), np.int64))
    with pytest.raises(ValueError, match=r"indices are int64 \[2, 16\]; expected \[batch, height"):
        decoded(np.zeros((2, 16), np.int64))


@pytest.mark.parametrize("function", [losses.l1, losses.mse, metrics.psnr, metrics.ssim])
def test_differences_of_whole_numbers_would_wrap(function):
    levels = np.zeros((2, 16, 16, 3), np.uint8)
    with pytest.raises(TypeError, match=r"are uint8 .*; pass float32"):
        function(levels, levels)
    with pytest.raises(ValueError, match=r"have shape \[2, .* targets \[1, .* one shape"):
        function(PIXELS, PIXELS[:1])
    ours = jnp.asarray(PIXELS)
    np.testing.assert_array_equal(function(PIXELS, PIXELS), function(ours, ours))


@pytest.mark.parametrize("function", [metrics.psnr, metrics.psnr_y, metrics.ssim])
def test_metrics_ask_for_a_batch(function):
    with pytest.raises(ValueError, match=r"add a batch axis: images\[None\]"):
        function(PIXELS[0], PIXELS[0])


def test_cross_entropy_takes_numpy_arrays():
    logits = np.zeros((2, 4, 8), np.float32)
    np.testing.assert_allclose(losses.cross_entropy(logits, CODES), np.log(8), rtol=1e-6)
    with pytest.raises(ValueError, match="indices are int64"):
        losses.cross_entropy(logits, CODES[0])


def test_keys_of_samples():
    """Old-style keys have as many rows as the batch, and would be taken for no keys at all."""
    old = jax.random.split(jax.random.PRNGKey(0), 2)
    with pytest.raises(TypeError, match=r"PRNGKey; pass one typed key per sample"):
        sample_gpt(GPT_SMALL, {}, old, start_tokens(GPT_SMALL, 2))
    with pytest.raises(TypeError, match=r"PRNGKey; pass one typed key per map"):
        sample_pixelcnn(PIXELCNN, {}, old)
    with pytest.raises(ValueError, match=r"keys have shape \[\]; expected one key per sample"):
        sample_gpt(GPT_SMALL, {}, jax.random.key(0), start_tokens(GPT_SMALL, 1))
    with pytest.raises(TypeError, match=r"float32 \[2\], which is no keys"):
        checks.as_keys(np.zeros(2, np.float32), 2)


def test_noise_keys_of_a_batch():
    module = VQGAN(**BACKBONE, quantizer="gumbel")
    variables = jax.eval_shape(module.init, jax.random.key(0), PIXELS)
    old = jax.random.split(jax.random.PRNGKey(0), 2)
    with pytest.raises(TypeError, match="PRNGKey"):
        jax.eval_shape(lambda v: module.apply(v, PIXELS, noise_keys=old), variables)
