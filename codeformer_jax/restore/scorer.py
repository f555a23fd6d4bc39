"""Bits of the codes of a restoration under a prior over the codes of clean faces."""

import dataclasses
import functools
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
from codeformer_jax.restore.fit import Fitted, as_dtype
from codeformer_jax.restore.restore_options import RestoreError
from codeformer_jax.restore.restorer import Restorer


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
                pictures = np.stack([as_dtype(x.pixels, np.dtype(np.uint8)) for x in batch])
                codes = prior.condition_stage1.encode(pictures[rows])
                condition = codes.reshape(batch_size, -1).astype(np.int32)
            bits = _bits(prior.variables, maps, condition, kind=prior.kind, levels=prior.levels)
        return np.asarray(bits)[: len(batch)]


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
    if prior.stage1 is None:
        raise RestoreError(f"'{name}' is a prior of pixels; --score needs one of codes")
    if prior.kind.condition == "class":
        raise RestoreError(
            f"'{name}' is a prior of classes, and a restored face has none; --score needs one "
            "without a condition, or with a condition of codes"
        )
    if not prior.kind.causal:
        raise RestoreError(
            f"'{name}' lets codes see later ones (n_unmasked={prior.module.n_unmasked}), so its "
            "bits mean nothing; --score needs another prior"
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
