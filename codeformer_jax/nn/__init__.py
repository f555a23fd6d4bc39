"""Linen modules: hyperparameters are fields, outputs are frozen dataclasses."""

from codeformer_jax.nn.codeformer import CodeFormer, CodeFormerOutput
from codeformer_jax.nn.discriminator import PatchDiscriminator
from codeformer_jax.nn.gpt import GPT, Cache
from codeformer_jax.nn.perceptual import LPIPS
from codeformer_jax.nn.quantizer import GumbelQuantizer, Quantized, VectorQuantizer
from codeformer_jax.nn.taming import TamingVQGAN
from codeformer_jax.nn.vqgan import VQGAN, VQGANOutput

__all__ = [
    "GPT",
    "LPIPS",
    "VQGAN",
    "Cache",
    "CodeFormer",
    "CodeFormerOutput",
    "GumbelQuantizer",
    "PatchDiscriminator",
    "Quantized",
    "TamingVQGAN",
    "VQGANOutput",
    "VectorQuantizer",
]
