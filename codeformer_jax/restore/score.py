"""How usual the codes of a restoration are among those of clean faces, by a prior, in bits."""

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
from codeformer_jax.nn import GPT, PixelCNN
from codeformer_jax.nn.precision import products_in
from codeformer_jax.restore.errors import RestoreError
from codeformer_jax.restore.fit import Fitted, as_dtype
from codeformer_jax.restore.restorer import Restorer


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A prior over the codes of a CodeFormer network, as a function of maps of codes.

    Attributes:
        name: where it was loaded from.
        prior: a `generate.prior.Prior`, checked against the network.
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
        """Loads a prior, a GPT or a PixelCNN without classes.

        Args:
            path: workdir or model file.
            restorer: the network whose codes are scored.
            teacher: autoencoder of the prior; None is the one in its workdir.

        Raises:
            RestoreError: another codebook or map than the network's, or a prior of classes.
            ValueError, FileNotFoundError: see `generate.prior.load_prior`.
        """
        # Training's libraries take seconds to import.
        from codeformer_jax.priors.prior import load_prior  # noqa: PLC0415

        prior = load_prior(path, teacher=teacher)
        _check(os.fspath(path), prior, restorer)
        return cls(os.fspath(path), prior)

    @property
    def bits_uniform(self) -> float:
        """Bits per code where all are equally likely."""
        return math.log2(self.prior.levels)

    @property
    def map_size(self) -> tuple[int, int]:
        """Rows and columns of a map."""
        return self.prior.map_size

    @functools.cached_property
    def sha256(self) -> str:
        """Of the prior's parameters."""
        return parameter_fingerprint(self.prior.variables["params"])

    def describe(self) -> dict[str, Any]:
        """What the scores are of, for a file."""
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
        """Bits of every code of 1 to `batch_size` maps, given the codes before it.

        Args:
            batch: the degraded pictures, of which a prior with a condition of codes sees theirs.
            indices: the codes of their restorations, row-major.
        """
        rows = np.arange(batch_size).clip(max=len(batch) - 1)
        module, condition = self.prior.module, None
        if isinstance(module, GPT):
            condition = np.zeros((batch_size, 1), np.int32)
        maps = indices.astype(np.int32).reshape(-1, *self.map_size)[rows]
        with products_in(self.prior.precision):
            if self.prior.condition == "codes":
                pictures = np.stack([as_dtype(x.pixels, np.dtype(np.uint8)) for x in batch])
                codes = self.prior.condition_stage1.encode(pictures[rows])
                condition = codes.reshape(batch_size, -1).astype(np.int32)
            bits = _bits(
                self.prior.variables, maps, condition, module=module, levels=self.prior.levels
            )
        return np.asarray(bits)[: len(batch)]


@functools.partial(jax.jit, static_argnames=("module", "levels"))
def _bits(
    variables: Any,
    codes: Int[Array, "b rows columns"],
    condition: Int[Array, "b m"] | None,
    *,
    module: GPT | PixelCNN,
    levels: int,
) -> Float[Array, "b rows columns"]:
    if condition is None:
        logits = module.apply(variables, codes[..., None])[..., 0, :]
    else:
        flat = codes.reshape(codes.shape[0], -1)
        logits = module.apply(variables, condition, flat, method="code_logits")
        logits = logits[..., :levels].reshape(*codes.shape, levels)
    return -log_likelihood(logits, codes) / math.log(2)


def _check(name: str, prior: Any, restorer: Restorer) -> None:
    """Raises RestoreError unless the prior knows this network's codes."""
    if prior.stage1 is None:
        raise RestoreError(f"'{name}' is a prior of pixels; --score needs one of codes")
    if prior.condition == "class":
        raise RestoreError(
            f"'{name}' is a prior of classes, and a restored face has none; --score needs one "
            "without a condition, or with a condition of codes"
        )
    known = getattr(prior.module, "condition_length", 0)
    if getattr(prior.module, "n_unmasked", 0) > known:
        raise RestoreError(
            f"'{name}' lets codes see later ones (n_unmasked={prior.module.n_unmasked}, where "
            f"{known} tokens are known beforehand), so its bits say nothing; --score needs another"
        )
    module = restorer.module
    own, other = (
        np.asarray(variables["params"]["quantize"]["embedding"])
        for variables in (restorer.variables, prior.stage1.variables)
    )
    if own.shape != other.shape or not np.allclose(own, other, atol=1e-6):
        shapes = f" ({list(other.shape)} against {list(own.shape)})" * (own.shape != other.shape)
        raise RestoreError(
            f"the codebook of '{name}' is not that of the network that restores{shapes}, so its "
            "codes mean something else: --score needs a prior trained on the stage-I network that "
            "this one comes from"
        )
    sites = restorer.image_size // module.downsampling
    if prior.map_size != (sites, sites):
        raise RestoreError(
            f"'{name}' knows maps of {prior.map_size[0]}x{prior.map_size[1]} codes; the network "
            f"that restores makes {sites}x{sites}. Train a prior on pictures of "
            f"{restorer.image_size} px"
        )
    if prior.condition == "codes" and prior.module.condition_length != sites * sites:
        raise RestoreError(
            f"'{name}' takes a condition of {prior.module.condition_length} codes; the degraded "
            f"picture has {sites * sites}: --score needs another prior"
        )
