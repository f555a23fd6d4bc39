"""Aligned faces in, restored faces out: host-side image handling around one compiled function."""

from codeformer_jax.restore.errors import RestoreError
from codeformer_jax.restore.files import Failure, RestoreSummary, restore_files
from codeformer_jax.restore.restorer import RestoredBatch, Restorer

__all__ = [
    "Failure",
    "RestoreError",
    "RestoreSummary",
    "RestoredBatch",
    "Restorer",
    "restore_files",
]
