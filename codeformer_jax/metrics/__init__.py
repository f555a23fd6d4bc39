"""Image and code metrics: pure functions, one number per image; callers reduce."""

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

__all__ = [
    "PSNR_CEILING",
    "CodebookUsage",
    "bits_per_dim",
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
