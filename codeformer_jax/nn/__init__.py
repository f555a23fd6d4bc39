"""Linen modules: hyperparameters are fields, outputs are frozen dataclasses."""

from codeformer_jax.nn.codeformer import CodeFormer, CodeFormerOutput
from codeformer_jax.nn.discriminator import PatchDiscriminator
from codeformer_jax.nn.perceptual import LPIPS
from codeformer_jax.nn.pixelcnn import PixelCNN
from codeformer_jax.nn.quantizer import GumbelQuantizer, Quantized, VectorQuantizer
from codeformer_jax.nn.vqgan import VQGAN, VQGANOutput
from codeformer_jax.nn.vqvae import VQVAE

# Networks with a codebook, whose codes a prior or a CodeFormer learns.
Autoencoder = VQGAN | VQVAE

__all__ = [
    "LPIPS",
    "VQGAN",
    "VQVAE",
    "Autoencoder",
    "CodeFormer",
    "CodeFormerOutput",
    "GumbelQuantizer",
    "PatchDiscriminator",
    "PixelCNN",
    "Quantized",
    "VQGANOutput",
    "VectorQuantizer",
]
