"""Pictures in, restored pictures out: host-side image handling around one compiled function."""

import importlib
from typing import Any

from codeformer_jax.restore.photo_options import PhotoOptions
from codeformer_jax.restore.restore_options import RestoreError, RestoreOptions

__all__ = [
    "Failure",
    "Photo",
    "PhotoOptions",
    "PhotoTools",
    "RestoreError",
    "RestoreOptions",
    "RestoreSummary",
    "RestoredBatch",
    "Restorer",
    "Scorer",
    "restore_files",
    "sample_batch",
]
# Loaded on first use: the command line reads the options without waiting for JAX.
_FILES = {
    "Failure": "jobs",
    "Photo": "photo",
    "PhotoTools": "photo",
    "RestoreSummary": "files",
    "RestoredBatch": "restorer",
    "Restorer": "restorer",
    "Scorer": "scores",
    "restore_files": "files",
    "sample_batch": "samples",
}


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)
