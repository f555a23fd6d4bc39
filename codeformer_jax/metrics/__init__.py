"""Metrics of images and codes: pure functions with one number per image, and their registry."""

from codeformer_jax.metrics.code_usage import (
    CodebookUsage,
    code_accuracy,
    code_cross_entropy,
    codebook_usage,
)
from codeformer_jax.metrics.images import PSNR_CEILING, psnr, psnr_y, ssim
from codeformer_jax.metrics.likelihood import (
    bits_per_dim,
    count_values,
    log_likelihood,
    site_bits_per_dim,
)
from codeformer_jax.metrics.registry import METRICS, Metric, choose

__all__ = [
    "METRICS",
    "PSNR_CEILING",
    "CodebookUsage",
    "Metric",
    "bits_per_dim",
    "choose",
    "code_accuracy",
    "code_cross_entropy",
    "codebook_usage",
    "count_values",
    "log_likelihood",
    "psnr",
    "psnr_y",
    "site_bits_per_dim",
    "ssim",
]
