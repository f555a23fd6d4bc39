"""Linen modules with hyperparameters as fields and frozen dataclasses as outputs."""

from codeformer_jax.nn.codeformer import (
    CodeFormer,
    CodeFormerOutput,
    CodePrediction,
    resize_positions,
)
from codeformer_jax.nn.cpu.transposed_dense import transpose_kernels, with_transposed_kernels
from codeformer_jax.nn.discriminator import PatchDiscriminator
from codeformer_jax.nn.gpt import GPT, Cache
from codeformer_jax.nn.gumbel import GumbelQuantizer
from codeformer_jax.nn.parsenet import ParseNet, ParseNetOutput
from codeformer_jax.nn.perceptual import LPIPS, STLPIPS, fit_lpips
from codeformer_jax.nn.pixelcnn import PixelCNN
from codeformer_jax.nn.quantizer import (
    QUANTIZERS,
    Quantized,
    Quantizer,
    VectorQuantizer,
)
from codeformer_jax.nn.retinaface import RetinaFace, RetinaFaceOutput
from codeformer_jax.nn.rrdbnet import RRDBNet
from codeformer_jax.nn.taming import TamingVQGAN
from codeformer_jax.nn.vqgan import VQGAN, VQGANOutput
from codeformer_jax.nn.vqvae import VQVAE

# Networks with a codebook, whose codes a prior or a CodeFormer learns.
Autoencoder = VQGAN | VQVAE

__all__ = [
    "GPT",
    "LPIPS",
    "QUANTIZERS",
    "STLPIPS",
    "VQGAN",
    "VQVAE",
    "Autoencoder",
    "Cache",
    "CodeFormer",
    "CodeFormerOutput",
    "CodePrediction",
    "GumbelQuantizer",
    "ParseNet",
    "ParseNetOutput",
    "PatchDiscriminator",
    "PixelCNN",
    "Quantized",
    "Quantizer",
    "RRDBNet",
    "RetinaFace",
    "RetinaFaceOutput",
    "TamingVQGAN",
    "VQGANOutput",
    "VectorQuantizer",
    "fit_lpips",
    "resize_positions",
    "transpose_kernels",
    "with_transposed_kernels",
]
