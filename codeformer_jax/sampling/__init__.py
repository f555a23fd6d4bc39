"""Codes sampled from a prior, one after another, as pure compiled functions."""

from codeformer_jax.sampling.condition import class_tokens, code_tokens, start_tokens
from codeformer_jax.sampling.gpt import sample_gpt
from codeformer_jax.sampling.pixelcnn import sample_pixelcnn
from codeformer_jax.sampling.sampler import Sampler, sample_codes

__all__ = [
    "Sampler",
    "class_tokens",
    "code_tokens",
    "sample_codes",
    "sample_gpt",
    "sample_pixelcnn",
    "start_tokens",
]
