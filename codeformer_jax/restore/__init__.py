"""Aligned faces in, restored faces out: host-side image handling around one compiled function."""

from codeformer_jax.restore.errors import RestoreError
from codeformer_jax.restore.files import Failure, RestoreSummary, restore_files
from codeformer_jax.restore.restorer import RestoredBatch, Restorer
from codeformer_jax.restore.samples import Samples, sample_batch
from codeformer_jax.restore.score import Scorer

__all__ = [
    "Failure",
    "RestoreError",
    "RestoreSummary",
    "RestoredBatch",
    "Restorer",
    "Samples",
    "Scorer",
    "restore_files",
    "sample_batch",
]
