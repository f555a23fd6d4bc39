"""A trained prior with the autoencoder of its codes, and maps that it samples batch by batch."""

import functools
import json
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jaxtyping import Array, Float, Int, Int32, UInt8

from codeformer_jax.checkpoints.teachers import teacher_of
from codeformer_jax.checkpoints.trained import Trained, load_teacher, load_trained
from codeformer_jax.convert import networks_of_role
from codeformer_jax.nn import Autoencoder
from codeformer_jax.priors.kinds import PRIORS, PriorKind, SamplePlan, Values
from codeformer_jax.system import storage
from codeformer_jax.system.keys import make_key
from codeformer_jax.system.storage import Path
from codeformer_jax.tasks.common import from_uint8, to_unit

# Pixels per call of an autoencoder: four pictures of 256x256.
_PIXELS_AT_ONCE = 4 * 256 * 256

Pictures = UInt8[np.ndarray, "_ h w 3"]


@dataclass(frozen=True)
class Stage1:
    """An autoencoder with its variables; the codebook is a parameter."""

    module: Autoencoder
    variables: Any

    def encode(self, pictures: Pictures) -> Int32[np.ndarray, "_ rows columns"]:
        """Returns the codes of pictures; their sides must be multiples of the downsampling."""
        rows, columns = (side // self.module.downsampling for side in pictures.shape[1:3])
        encode = functools.partial(_encode, self.module, self.variables)
        return _in_parts(encode, pictures, pictures[0].size // 3).reshape(-1, rows, columns)

    def decode(self, codes: Int32[np.ndarray, "_ rows columns"]) -> Pictures:
        """Returns the pictures of maps of codes."""
        pixels = codes[0].size * self.module.downsampling**2
        return _in_parts(functools.partial(_decode, self.module, self.variables), codes, pixels)


@dataclass(frozen=True)
class Prior:
    """A trained prior, ready to sample pictures.

    Attributes:
        network: name of the network, such as 'taming_gpt' or 'pixelcnn'.
        module, variables: the network.
        stage1: autoencoder that decodes its codes; None if its values are pixels.
        condition_stage1: autoencoder that encodes its condition; None if that is not codes.
        step: step of the checkpoint; None for a model file.
        heldout_bits: bits per value on held-out maps, if the checkpoint has them.
        precision: precision of products and convolutions; see `nn.precision`.
    """

    network: str
    module: Any
    variables: Any
    stage1: Stage1 | None
    condition_stage1: Stage1 | None = None
    step: int | None = None
    heldout_bits: float | None = None
    precision: str = "default"

    @property
    def kind(self) -> PriorKind:
        """Sampling and scoring of the network."""
        return PRIORS[self.network](self.module)

    @property
    def levels(self) -> int:
        """Number of values that a site may have."""
        return self.stage1.module.codebook_size if self.stage1 else self.kind.tokens

    @property
    def downsampling(self) -> int:
        """Pixels per site along each side."""
        return self.stage1.module.downsampling if self.stage1 else 1

    @property
    def map_size(self) -> tuple[int, int]:
        """Rows and columns of the maps in training."""
        return self.kind.map_size

    def values_of(self, pictures: Pictures) -> Values:
        """Returns the codes of pictures, or their pixels, as maps."""
        return self.stage1.encode(pictures) if self.stage1 else pictures.astype(np.int32)

    def pictures_of(self, values: Values) -> Pictures:
        """Returns the pictures of maps."""
        return self.stage1.decode(values) if self.stage1 else values.astype(np.uint8)


def load_prior(
    path: str | Path,
    *,
    teacher: str | Path | None = None,
    condition_teacher: str | Path | None = None,
    which: str | int = "latest",
) -> Prior:
    """Loads a prior and its autoencoder.

    Args:
        path: workdir, which keeps the autoencoder as well, or model file.
        teacher: workdir or model file of the autoencoder; required with a model file.
        condition_teacher: autoencoder that encodes a condition of codes; default `teacher`.
        which: checkpoint of a workdir: 'latest', 'best' or a step.

    Returns:
        The prior.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if the network is not a prior, or the autoencoder is missing or another one.
    """
    path = storage.to_path(path)
    trained = load_trained(path, which)
    if trained.network not in PRIORS:
        raise ValueError(
            f"{path} holds a {trained.network}, which is not a prior; give the workdir of a run of "
            "configs/gpt_faces.py or configs/pixelcnn_faces.py, or a model file of such a network"
        )
    kind = PRIORS[trained.network](trained.module)
    stage1 = _find_stage1(trained, kind, path, teacher)
    if stage1 is not None:
        _check_codebook(kind, stage1.module, condition_teacher is not None)
        _check_downsampling(trained, kind, stage1.module)
    return Prior(
        network=trained.network,
        module=trained.module,
        variables=trained.variables,
        stage1=stage1,
        condition_stage1=_condition_stage1(kind, stage1, condition_teacher),
        step=trained.step,
        heldout_bits=_heldout_bits(path, trained.step),
        precision=trained.precision,
    )


def _find_stage1(
    trained: Trained, kind: PriorKind, path: Path, given: str | Path | None
) -> Stage1 | None:
    if kind.pixels:
        if given is not None:
            raise ValueError(f"{path} is a prior of pixels, not of codes: leave --teacher out")
        return None
    if given is not None:
        return _load_stage1(given, "--teacher")
    found = load_teacher(path)
    if found is None:
        raise ValueError(
            f"{path} holds a {trained.network} without the autoencoder of its codes: give that "
            "one's workdir or model file as --teacher"
        )
    return Stage1(*found)


def _load_stage1(path: str | Path, option: str) -> Stage1:
    trained, known = load_trained(path), networks_of_role("autoencoder")
    if trained.network not in known:
        raise ValueError(
            f"{option} {path} holds a {trained.network}; expected an autoencoder: "
            + ", ".join(known)
        )
    return Stage1(*teacher_of(trained, path))


def _condition_stage1(
    kind: PriorKind, stage1: Stage1 | None, given: str | Path | None
) -> Stage1 | None:
    if kind.condition != "codes":
        if given is not None:
            raise ValueError("--condition-teacher: this prior has no condition of codes")
        return None
    found = stage1 if given is None else _load_stage1(given, "--condition-teacher")
    if found.module.codebook_size > kind.tokens:
        raise ValueError(
            f"the condition's autoencoder has {found.module.codebook_size} codes and this prior "
            f"{kind.tokens} tokens; give the autoencoder of its condition as --condition-teacher"
        )
    return found


def _check_codebook(kind: PriorKind, stage1: Autoencoder, own_condition: bool) -> None:
    """Raises ValueError if the autoencoder has another number of codes than the prior."""
    codes = stage1.codebook_size
    if kind.has_codes(codes, own_condition):
        return
    remedy = "it was trained on another autoencoder; give that one as --teacher"
    if kind.condition == "codes" and codes < kind.tokens:
        remedy = "give the autoencoder of its condition as --condition-teacher"
    raise ValueError(
        f"the autoencoder has {codes} codes and this prior samples {kind.tokens}: {remedy}"
    )


def _check_downsampling(trained: Trained, kind: PriorKind, stage1: Autoencoder) -> None:
    """Raises ValueError if the autoencoder makes maps of another size than the prior's."""
    rows, columns = kind.map_size
    # A run knows the size of its pictures; with model files it is the autoencoder's.
    side = trained.config.data.image_size if trained.config else stage1.image_size
    sites = side // stage1.downsampling
    if (rows, columns) != (sites, sites):
        raise ValueError(
            f"this prior samples maps of {rows}x{columns} codes, but {side} px are {sites}x{sites} "
            f"codes of the autoencoder, which has {stage1.downsampling} px per code: give the one "
            "that the prior was trained on as --teacher (or, if it is, convert it with "
            f"--set image_size={rows * stage1.downsampling})"
        )


def _heldout_bits(path: Path, step: int | None) -> float | None:
    file = path / "checkpoints" / str(step) / "metrics" / "metrics"
    if step is None or not file.is_file():
        return None
    bits = json.loads(file.read_text()).get("bits_per_dim")
    return None if bits is None else float(bits)


def _in_parts(function: Any, arrays: np.ndarray, pixels: int) -> np.ndarray:
    """Calls `function` on parts of arrays [n, ...]; the last part is filled up with copies."""
    part = max(1, min(len(arrays), _PIXELS_AT_ONCE // pixels))
    results = []
    for start in range(0, len(arrays), part):
        rows = np.minimum(np.arange(start, start + part), len(arrays) - 1)
        results.append(np.asarray(function(arrays[rows])))
    return np.concatenate(results)[: len(arrays)]


@functools.partial(jax.jit, static_argnames="module")
def _encode(
    module: Autoencoder, variables: Any, pictures: UInt8[Array, "n h w 3"]
) -> Int[Array, "n s"]:
    return module.apply(variables, from_uint8(pictures), method="encode").indices


@functools.partial(jax.jit, static_argnames="module")
def _decode(
    module: Autoencoder, variables: Any, codes: Int[Array, "n rows columns"]
) -> UInt8[Array, "n h w 3"]:
    images: Float[Array, "n h w 3"] = module.apply(variables, codes, method="decode")
    return jnp.round(to_unit(images) * 255).astype(jnp.uint8)


def sample_maps(prior: Prior, plan: SamplePlan, *, batch_size: int) -> Values:
    """Samples maps; a last batch that is not full is filled up with copies.

    Args:
        prior: the prior.
        plan: the maps.
        batch_size: maps per batch.

    Returns:
        Values [number, h, w], of pixels [number, h, w, c].
    """
    batch_size = min(batch_size, plan.number)
    key, maps = make_key(plan.seed), []
    with tqdm.tqdm(desc="sample", total=plan.number, unit="map", disable=None) as bar:
        for start in range(0, plan.number, batch_size):
            rows = np.arange(start, start + batch_size, dtype=np.int32).clip(max=plan.number - 1)
            keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
            part = plan
            if plan.classes is not None:
                part = replace(plan, classes=tuple(plan.classes[row] for row in rows))
            values = prior.kind.sample(prior.variables, keys, part, prior.levels)
            maps.append(np.asarray(values))
            bar.update(min(batch_size, plan.number - start))
    return np.concatenate(maps)[: plan.number]
