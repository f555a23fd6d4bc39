"""Test set on disk: stored pairs of degraded (LQ) and true (GT) pictures.

    lq/NAME.png, gt/NAME.png    8-bit RGB, all of one size
    manifest.json               recipe, seed, what was drawn for each pair, SHA-256 of each file

The SHA-256 of the manifest's content identifies the set: scores with the same hash were taken on
the same files. It leaves out only `made_with`, so that other versions of the libraries which make
the same files make the same set.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import tqdm

from codeformer_jax.data.examples import Element
from codeformer_jax.data.images import read_image

MANIFEST = "manifest.json"
FORMAT = "codeformer-jax test set 1"
HALVES = ("lq", "gt")

_NOT_HASHED = ("sha256", "made_with")
_THREADS = 4
_LISTED = 20


class DamagedTestSet(ValueError):
    """A test set whose files differ from its manifest; the message names them."""


@dataclasses.dataclass(frozen=True)
class StoredPairs:
    """Test set as a `Source` whose elements also have `degraded`: uint8 [size, size, 3].

    Open one with `open_testset`, which verifies it.

    Attributes:
        root: folder of the set.
        manifest: content of `manifest.json`.
    """

    root: pathlib.Path
    manifest: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.manifest["pairs"])

    def __getitem__(self, index: int) -> Element:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0..{len(self) - 1}")
        name = self.manifest["pairs"][index]["name"]
        lq, gt = (self._read(half, name) for half in HALVES)
        return {"image": gt, "degraded": lq, "name": name, "index": index}

    def __str__(self) -> str:
        number, facts = len(self), self.summary()
        return (
            f"{number} pair{'s' * (number != 1)} of {self.size}x{self.size} px, "
            f"recipe {facts['recipe']}, seed {facts['seed']}"
        )

    @property
    def size(self) -> int:
        """Side of the pictures in pixels."""
        return self.manifest["size"]

    @property
    def sha256(self) -> str:
        """The set's identity, 64 hexadecimal digits."""
        return self.manifest["sha256"]

    def summary(self) -> dict[str, Any]:
        """Returns the facts that belong beside every score on this set, as JSON values."""
        return {
            "sha256": self.sha256,
            "recipe": self.manifest["recipe"]["name"],
            "seed": self.manifest["seed"],
            "pairs": len(self),
        }

    def _read(self, half: str, name: str) -> Any:
        path = self.root / half / name
        pixels = read_image(path).pixels
        if pixels.shape != (self.size, self.size, 3):
            raise DamagedTestSet(
                f"'{path}' has {pixels.shape[1]}x{pixels.shape[0]} pixels, but the manifest says "
                f"{self.size}x{self.size}; get the set again from where it came"
            )
        return pixels


def open_testset(root: str | os.PathLike, *, progress: bool | None = False) -> StoredPairs:
    """Opens a test set after comparing every file with its SHA-256.

    Args:
        root: folder made by `codeformer-jax testset`.
        progress: show a progress bar; None: on terminals only.

    Raises:
        FileNotFoundError: the folder or its manifest does not exist.
        DamagedTestSet: the manifest was changed, or files are missing, additional or altered.
    """
    root = pathlib.Path(root)
    manifest = _read_manifest(root)
    listed = {f"{half}/{pair['name']}": pair[half] for pair in manifest["pairs"] for half in HALVES}
    found = set(_files(root)) - {MANIFEST}
    problems = dict.fromkeys(listed.keys() - found, "missing")
    problems |= dict.fromkeys(found - listed.keys(), "not in the manifest")
    # Opens only names that were found below the folder, whatever the manifest lists.
    there = sorted(listed.keys() & found)
    disable = None if progress is None else not progress
    threads = concurrent.futures.ThreadPoolExecutor(_THREADS)
    try:
        hashes = threads.map(lambda name: file_hash(root / name), there)
        shown = tqdm.tqdm(hashes, desc="verify", total=len(there), unit="file", disable=disable)
        for name, sha256 in zip(there, shown, strict=True):
            if sha256 != listed[name]:
                problems[name] = "altered: its SHA-256 differs"
    finally:
        threads.shutdown(cancel_futures=True)  # Otherwise Ctrl-C waits for all files.
    if problems:
        raise DamagedTestSet(
            f"'{root}' is not the test set that its manifest describes; get it again from where "
            "it came, or make it again:" + listing(problems)
        )
    return StoredPairs(root, manifest)


def content_hash(manifest: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a manifest's content as JSON with sorted names and no white space."""
    content = {name: value for name, value in manifest.items() if name not in _NOT_HASHED}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def file_hash(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listing(problems: Mapping[str, str]) -> str:
    """Returns lines 'name: problem' for the end of a message; of many, the first."""
    lines = [f"\n  {name}: {problem}" for name, problem in sorted(problems.items())[:_LISTED]]
    more = f"\n  and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    return "".join(lines) + more


def _read_manifest(root: pathlib.Path) -> dict[str, Any]:
    path = root / MANIFEST
    if not path.is_file():
        what = f"it has no {MANIFEST}" if root.exists() else "there is no such folder"
        raise FileNotFoundError(
            f"'{root}' is not a test set: {what}; give a folder made by `codeformer-jax testset`"
        )
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedTestSet(f"'{path}' is not JSON ({error}); get the set again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DamagedTestSet(
            f"'{path}' is not the manifest of a test set: its format is not '{FORMAT}'; give a "
            "folder made by `codeformer-jax testset` of this version"
        )
    sha256 = content_hash(manifest)
    if manifest.get("sha256") != sha256:
        raise DamagedTestSet(
            f"'{path}' was changed: its sha256 is {manifest.get('sha256')}, but its content has "
            f"{sha256}; get the set again from where it came"
        )
    if not _is_complete(manifest):
        raise DamagedTestSet(
            f"'{path}' is incomplete: expected seed, size, recipe, and pairs with "
            "name, lq and gt, each name once; get the set again from where it came"
        )
    return manifest


def _is_complete(manifest: Mapping[str, Any]) -> bool:
    """Returns whether a manifest has every field that is read; any content has a hash."""
    kinds = {"seed": int, "size": int, "recipe": dict, "pairs": list}
    if not all(isinstance(manifest.get(name), kind) for name, kind in kinds.items()):
        return False
    pairs = manifest["pairs"]
    texts = [
        isinstance(pair, dict) and all(isinstance(pair.get(k), str) for k in ("name", *HALVES))
        for pair in pairs
    ]
    return (
        all(texts)
        and 0 < len(pairs) == len({pair["name"] for pair in pairs})
        and isinstance(manifest["recipe"].get("name"), str)
    )


def _files(root: pathlib.Path) -> Iterator[str]:
    """Returns every file below `root`, hidden ones too, as a relative name with slashes."""

    def fail(error: OSError):
        raise error

    for folder, _, names in os.walk(root, onerror=fail, followlinks=True):
        for name in names:
            yield pathlib.Path(folder, name).relative_to(root).as_posix()
