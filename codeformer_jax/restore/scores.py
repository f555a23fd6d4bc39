"""Bits of a restoration's codes under a prior over the codes of clean faces, and their file."""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from codeformer_jax.convert import parameter_fingerprint
from codeformer_jax.metrics import log_likelihood
from codeformer_jax.nn.precision import products_in
from codeformer_jax.restore.fit import Fitted
from codeformer_jax.restore.jobs import Job, Plan
from codeformer_jax.restore.restore_options import RestoreError
from codeformer_jax.restore.restorer import Restorer
from codeformer_jax.system.atomic import atomic_path
from codeformer_jax.system.storage import Path

SCORES_FILE = "scores.json"


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A prior over the codes of a restoration network.

    Attributes:
        name: path that it was loaded from.
        prior: a `priors.prior.Prior`, checked against the network.
    """

    name: str
    prior: Any

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        restorer: Restorer,
        *,
        teacher: str | os.PathLike | None = None,
    ) -> "Scorer":
        """Loads a prior without classes.

        Args:
            path: workdir or model file.
            restorer: the network whose codes are scored.
            teacher: autoencoder of the prior; default the one in its workdir.

        Returns:
            The scorer.

        Raises:
            RestoreError: if the prior has classes, or another codebook or map size than the
                network.
            ValueError, FileNotFoundError: see `priors.prior.load_prior`.
        """
        # Orbax takes seconds to import.
        from codeformer_jax.priors.prior import load_prior  # noqa: PLC0415

        prior = load_prior(path, teacher=teacher)
        _check(os.fspath(path), prior, restorer)
        return cls(os.fspath(path), prior)

    @property
    def bits_uniform(self) -> float:
        """Bits per code if all codes are equally likely."""
        return math.log2(self.prior.levels)

    @functools.cached_property
    def sha256(self) -> str:
        """Fingerprint of the prior's parameters."""
        return parameter_fingerprint(self.prior.variables["params"])

    def describe(self) -> dict[str, Any]:
        """Returns the head of the scores file."""
        return {
            "prior": self.name,
            "prior_sha256": self.sha256,
            "step": self.prior.step,
            "bits_per_code_uniform": self.bits_uniform,
            "bits_per_code_heldout": self.prior.heldout_bits,
        }

    def bits(
        self, batch: Sequence[Fitted], indices: Int[np.ndarray, "b n"], batch_size: int
    ) -> Float[np.ndarray, "b rows columns"]:
        """Computes the bits of every code, given the codes before it.

        Args:
            batch: 1 to `batch_size` degraded pictures; a prior with a condition of codes is given
                theirs.
            indices: codes of the restorations, row-major.
            batch_size: size of the compiled batch.

        Returns:
            Bits [b, rows, columns].
        """
        prior, condition = self.prior, None
        rows = np.arange(batch_size).clip(max=len(batch) - 1)
        maps = indices.astype(np.int32).reshape(-1, *prior.map_size)[rows]
        with products_in(prior.precision):
            if prior.kind.condition == "codes":
                pictures = np.stack([x.pixels for x in batch])
                codes = prior.condition_stage1.encode(pictures[rows])
                condition = codes.reshape(batch_size, -1).astype(np.int32)
            bits = _bits(prior.variables, maps, condition, kind=prior.kind, levels=prior.levels)
        return np.asarray(bits)[: len(batch)]


class Scores:
    """Scores of one call; a context manager that writes them at its end, even after an interrupt.

    Args:
        plan: plan of the call.
        scorer: None makes every method do nothing.
        force: replace a file that is damaged or has another prior's scores.

    Raises:
        RestoreError: see `read_scores`.
    """

    def __init__(self, plan: Plan, scorer: Scorer | None, force: bool):
        self._folder, self._means = plan.folder, []
        self._about = {} if scorer is None else scorer.describe()
        self._faces = {} if scorer is None else read_scores(plan.folder, self._about, force)

    def add(self, job: Job, bits: Sequence[Float[np.ndarray, "rows columns"] | None]) -> None:
        """Adds the scores of a picture whose results have been written.

        Args:
            job: the picture.
            bits: of each code, for each of its results.
        """
        for result, heat_map, costs in zip(job.results, job.maps, bits, strict=False):
            mean = round(float(costs.mean()), 4)
            self._faces[result.relative_to(self._folder).as_posix()] = {
                "source": str(job.source),
                "heat_map": heat_map.relative_to(self._folder).as_posix(),
                "bits_per_code": mean,
                "map": costs.astype(np.float64).round(3).tolist(),
            }
            self._means.append(mean)

    def __enter__(self) -> "Scores":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._means:
            write_scores(self._folder, self._about, self._faces)

    def summary(self) -> str:
        """Returns one line of text; empty without scores."""
        if not self._means:
            return ""
        means, clean = np.array(self._means), self._about["bits_per_code_heldout"]
        beside = "" if clean is None else f"; clean held-out faces {clean:.2f}"
        return (
            f"bits per code {means.mean():.2f} ({means.min():.2f} to {means.max():.2f}{beside}; a "
            f"blind guess {self._about['bits_per_code_uniform']:.2f}) -> "
            f"{self._folder / SCORES_FILE}"
        )


def read_scores(folder: Path, about: dict[str, Any], force: bool) -> dict[str, Any]:
    """Reads the faces that the folder's scores already hold.

    Args:
        folder: folder of the results.
        about: the prior, from `Scorer.describe`.
        force: return no faces where an error would be raised.

    Returns:
        Result's name -> its scores; empty without such a file.

    Raises:
        RestoreError: if the file is damaged, or holds the scores of another prior.
    """
    path = folder / SCORES_FILE
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        # Equal for a workdir and a model file exported from it.
        if content["prior_sha256"] == about["prior_sha256"]:
            return content["faces"]
        problem = f"has scores by another prior ({content['prior']})"
    except (ValueError, LookupError, TypeError) as error:
        problem = f"cannot be read as scores ({error!r})"
    if force:
        return {}
    raise RestoreError(f"'{path}' {problem}; give another output folder, or --force to replace it")


def write_scores(folder: Path, about: dict[str, Any], faces: dict[str, Any]) -> None:
    """Writes the scores file, with one line for each face.

    Args:
        folder: folder of the results.
        about: the prior, from `Scorer.describe`.
        faces: result's name -> its scores.
    """
    lines = [f"    {json.dumps(name)}: {json.dumps(faces[name])}" for name in sorted(faces)]
    head = json.dumps(about, indent=2).removesuffix("\n}")
    with atomic_path(folder / SCORES_FILE) as path:
        path.write_text(head + ',\n  "faces": {\n' + ",\n".join(lines) + "\n  }\n}\n")


@functools.partial(jax.jit, static_argnames=("kind", "levels"))
def _bits(
    variables: Any,
    codes: Int[Array, "b rows columns"],
    condition: Int[Array, "b m"] | None,
    *,
    kind: Any,
    levels: int,
) -> Float[Array, "b rows columns"]:
    logits = kind.code_logits(variables, codes, condition)[..., :levels]
    return -log_likelihood(logits, codes) / math.log(2)


def _check(name: str, prior: Any, restorer: Restorer) -> None:
    """Raises RestoreError unless the prior models this network's codes."""
    if prior.stage1 is None or prior.kind.condition == "class" or not prior.kind.causal:
        raise RestoreError(
            f"'{name}' cannot score codes: --score needs a prior of codes without classes, in "
            "which each code sees only those before it"
        )
    own, other = (
        np.asarray(variables["params"]["quantize"]["embedding"])
        for variables in (restorer.variables, prior.stage1.variables)
    )
    if own.shape != other.shape or not np.allclose(own, other, atol=1e-6):
        shapes = f" ({list(other.shape)} against {list(own.shape)})" * (own.shape != other.shape)
        raise RestoreError(
            f"the codebook of '{name}' is not that of the network that restores{shapes}; --score "
            "needs a prior of the stage-I network that this one was trained from"
        )
    sites = restorer.image_size // restorer.module.downsampling
    if prior.map_size != (sites, sites):
        raise RestoreError(
            f"'{name}' models maps of {prior.map_size[0]}x{prior.map_size[1]} codes; the network "
            f"that restores makes {sites}x{sites}. Train a prior on pictures of "
            f"{restorer.image_size} px"
        )
    if prior.kind.condition == "codes" and prior.module.condition_length != sites * sites:
        raise RestoreError(
            f"'{name}' takes a condition of {prior.module.condition_length} codes; the degraded "
            f"picture has {sites * sites}: --score needs another prior"
        )
