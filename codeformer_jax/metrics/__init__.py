"""Image and code metrics: pure functions, one number per image; callers reduce."""

from codeformer_jax.metrics.baselines import count_sites, site_nll
from codeformer_jax.metrics.codes import (
    CodebookUsage,
    code_accuracy,
    code_cross_entropy,
    codebook_usage,
)
from codeformer_jax.metrics.images import PSNR_CEILING, psnr, psnr_y, ssim

__all__ = [
    "PSNR_CEILING",
    "CodebookUsage",
    "code_accuracy",
    "code_cross_entropy",
    "codebook_usage",
    "count_sites",
    "psnr",
    "psnr_y",
    "site_nll",
    "ssim",
]
