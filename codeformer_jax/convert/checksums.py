"""SHA-256 of the published weight files (assets of the projects' GitHub releases)."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from codeformer_jax.convert.errors import ChecksumError

# sczhou/CodeFormer v0.1.0; xinntao/facexlib v0.1.0 and v0.2.2; xinntao/Real-ESRGAN v0.2.1.
PUBLISHED = {
    "codeformer.pth": "1009e537e0c2a07d4cabce6355f53cb66767cd4b4297ec7a4a64ca4b8a5684b7",
    "vqgan_code1024.pth": "4d1c6741b3cffcbdc2cd1a12b2c3c2442282e042d5de66909cb643d4fa31b20f",
    "detection_Resnet50_Final.pth": (
        "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d"
    ),
    "parsing_parsenet.pth": "3d558d8d0e42c20224f13cf5a29c79eba2d59913419f945545d8cf7b72920de2",
    "RealESRGAN_x2plus.pth": "49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb",
}


@dataclass(frozen=True)
class Verification:
    """Outcome of `verify`.

    Attributes:
        sha256: the file's hash, hex.
        published_as: name of the published file with that hash, None if there is none.
    """

    sha256: str
    published_as: str | None

    def __str__(self) -> str:
        if self.published_as:
            return f"verified: SHA-256 is that of the published {self.published_as}"
        return f"unverified: no published file has SHA-256 {self.sha256}"


def verify(path: str | os.PathLike) -> Verification:
    """Compares a file's SHA-256 with the published ones.

    Raises:
        ChecksumError: a file with a published name has another hash.
    """
    path = Path(path)
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    expected = PUBLISHED.get(path.name)
    if expected not in (None, sha256):
        raise ChecksumError(
            f"{path}: SHA-256 is {sha256}, the published {path.name} has {expected}; fetch it "
            "again, or rename it or pass --no-verify if it is meant to differ"
        )
    found = [name for name, known in PUBLISHED.items() if known == sha256]
    return Verification(sha256, found[0] if found else None)
