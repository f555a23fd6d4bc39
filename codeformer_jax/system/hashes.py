"""SHA-256 of files."""

import hashlib
import os

from codeformer_jax.system import storage


def file_sha256(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file, 64 hexadecimal digits."""
    with storage.local_copy(storage.to_path(path)) as local, open(local, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
