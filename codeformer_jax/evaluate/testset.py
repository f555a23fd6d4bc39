"""Test set on disk: stored pairs of degraded (LQ) and true (GT) pictures.

    lq/NAME.png, gt/NAME.png    8-bit RGB, all of one size
    manifest.json               recipe, seed, what was drawn for each pair, SHA-256 of each file

The SHA-256 of the manifest's content identifies the set: scores with the same hash were taken on
the same files. It leaves out only `made_with`, so that other versions of the libraries which make
the same files make the same set.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from multiprocessing.pool import ThreadPool
from typing import Any

import tqdm

from codeformer_jax.data.examples import Element
from codeformer_jax.data.images import read_image
from codeformer_jax.system import storage
from codeformer_jax.system.hashes import file_sha256
from codeformer_jax.system.storage import Path

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

    root: Path
    manifest: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.manifest["pairs"])

    def __getitem__(self, index: int) -> Element:
        name = self.manifest["pairs"][index]["name"]
        lq, gt = (read_image(self.root / half / name).pixels for half in HALVES)
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


def open_testset(root: str | os.PathLike) -> StoredPairs:
    """Opens a test set after comparing every file with its SHA-256. Terminals show a bar.

    Args:
        root: folder made by `codeformer-jax testset`.

    Raises:
        FileNotFoundError: the folder or its manifest does not exist.
        DamagedTestSet: the manifest was changed, or files are missing, additional or altered.
    """
    root = storage.to_path(root, "eval.testset")
    manifest = _read_manifest(root)
    listed = {f"{half}/{pair['name']}": pair[half] for pair in manifest["pairs"] for half in HALVES}
    found = set(_files(root)) - {MANIFEST}
    problems = dict.fromkeys(listed.keys() - found, "missing")
    problems |= dict.fromkeys(found - listed.keys(), "not in the manifest")
    # Opens only names that were found below the folder, whatever the manifest lists.
    there = sorted(listed.keys() & found)
    with ThreadPool(_THREADS) as threads:
        hashes = threads.imap(lambda name: file_sha256(root / name), there)
        shown = tqdm.tqdm(hashes, desc="verify", total=len(there), unit="file", disable=None)
        for name, sha256 in zip(there, shown, strict=True):
            if sha256 != listed[name]:
                problems[name] = "altered: its SHA-256 differs"
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


def listing(problems: Mapping[str, str]) -> str:
    """Returns lines 'name: problem' for the end of a message; of many, the first."""
    lines = [f"\n  {name}: {problem}" for name, problem in sorted(problems.items())[:_LISTED]]
    more = f"\n  and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    return "".join(lines) + more


def _read_manifest(root: Path) -> dict[str, Any]:
    path = root / MANIFEST
    if not path.is_file():
        what = f"it has no {MANIFEST}" if root.exists() else "there is no such folder"
        raise FileNotFoundError(
            f"'{root}' is not a test set: {what}; give a folder made by `codeformer-jax testset`"
        )
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError as error:
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
    return manifest


def _files(root: Path) -> Iterator[str]:
    """Returns every file below `root`, hidden ones too, as a relative name with slashes."""
    if storage.is_remote(root):
        yield from storage.sizes(root)
        return
    for folder, _, names in os.walk(root, followlinks=True):
        for name in names:
            yield os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")
