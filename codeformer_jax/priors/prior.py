"""A trained prior with the autoencoder whose maps it knows, checked to belong together."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, UInt8

from codeformer_jax.checkpoints.teachers import AUTOENCODERS, teacher_of
from codeformer_jax.checkpoints.trained import Trained, load_trained
from codeformer_jax.nn import GPT, Autoencoder, PixelCNN
from codeformer_jax.tasks.common import from_uint8, precision_of, to_unit
from codeformer_jax.train.start import load_teacher

PRIORS = ("taming_gpt", "pixelcnn")
# Pixels that go through an autoencoder at once: four pictures of 256x256.
_PIXELS_AT_ONCE = 4 * 256 * 256

Values = Int32[np.ndarray, "_ rows columns"] | Int32[np.ndarray, "_ rows columns c"]
Pictures = UInt8[np.ndarray, "_ h w 3"]


@dataclass(frozen=True)
class Stage1:
    """An autoencoder with its variables, the codebook a parameter."""

    module: Autoencoder
    variables: Any

    def encode(self, pictures: Pictures) -> Int32[np.ndarray, "_ rows columns"]:
        """Codes of pictures whose sides the downsampling divides."""
        rows, columns = (side // self.module.downsampling for side in pictures.shape[1:3])
        codes = _in_parts(
            functools.partial(_encode, self.module, self.variables), pictures, pictures[0].size // 3
        )
        return codes.reshape(-1, rows, columns)

    def decode(self, codes: Int32[np.ndarray, "_ rows columns"]) -> Pictures:
        """Pictures of maps."""
        pixels = codes[0].size * self.module.downsampling**2
        return _in_parts(functools.partial(_decode, self.module, self.variables), codes, pixels)


@dataclass(frozen=True)
class Prior:
    """A GPT or a PixelCNN, ready to draw pictures.

    Attributes:
        network: 'taming_gpt' or 'pixelcnn'.
        module, variables: the network.
        stage1: what decodes its codes; None where its values are pixels.
        condition_stage1: what encodes its condition; None where that is not codes.
        step: of the checkpoint; None for a model file.
        heldout_bits: per value of held-out maps, where the checkpoint has them.
        precision: of products and convolutions; see `nn.precision`.
    """

    network: str
    module: GPT | PixelCNN
    variables: Any
    stage1: Stage1 | None
    condition_stage1: Stage1 | None = None
    step: int | None = None
    heldout_bits: float | None = None
    precision: str = "default"

    @property
    def levels(self) -> int:
        """How many values a site may have."""
        return self.stage1.module.codebook_size if self.stage1 else self.module.levels

    @property
    def downsampling(self) -> int:
        """Pixels per site along each side."""
        return self.stage1.module.downsampling if self.stage1 else 1

    @property
    def map_size(self) -> tuple[int, int]:
        """Rows and columns of the maps in training."""
        return map_size_of(self.module)

    @property
    def condition(self) -> str:
        """'start' (none), 'class' or 'codes'."""
        if isinstance(self.module, PixelCNN):
            return "class" if self.module.classes else "start"
        return self.module.condition

    def values_of(self, pictures: Pictures) -> Values:
        """Maps of pictures: their codes, or their pixels."""
        return self.stage1.encode(pictures) if self.stage1 else pictures.astype(np.int32)

    def pictures_of(self, values: Values) -> Pictures:
        """What maps show."""
        return self.stage1.decode(values) if self.stage1 else values.astype(np.uint8)


def load_prior(
    path: str | Path,
    *,
    teacher: str | Path | None = None,
    condition_teacher: str | Path | None = None,
    which: str | int = "latest",
) -> Prior:
    """The prior of a workdir or a model file.

    Args:
        path: workdir, whose autoencoder lies beside its checkpoints, or model file.
        teacher: workdir or model file of the autoencoder; needed with a model file.
        condition_teacher: the one that encodes a condition of codes; None is `teacher`.
        which: checkpoint of a workdir: 'latest', 'best' or a step.

    Raises:
        FileNotFoundError: where something given does not exist.
        ValueError: another network, no autoencoder, or one that is not the prior's.
    """
    path = Path(path)
    trained = load_trained(path, which)
    if trained.network not in PRIORS:
        raise ValueError(
            f"{path} holds a {trained.network}, which is no prior; give the workdir of a run of "
            "configs/gpt_faces.py or configs/pixelcnn_faces.py, or a model file of such a network"
        )
    module = trained.module
    stage1 = _find_stage1(trained, path, teacher)
    if stage1 is not None:
        _check_codebook(module, stage1.module, condition_teacher is not None)
        _check_downsampling(trained, stage1.module)
    return Prior(
        network=trained.network,
        module=module,
        variables=trained.variables,
        stage1=stage1,
        condition_stage1=_condition_stage1(module, stage1, condition_teacher),
        step=trained.step,
        heldout_bits=_heldout_bits(path, trained.step),
        precision=precision_of(trained.config),
    )


def map_size_of(module: GPT | PixelCNN) -> tuple[int, int]:
    """Rows and columns of the maps in training."""
    if isinstance(module, PixelCNN):
        return module.map_size, module.map_size
    return tuple(module.map_size)


def _find_stage1(trained: Trained, path: Path, given: str | Path | None) -> Stage1 | None:
    module = trained.module
    if isinstance(module, PixelCNN) and module.ordinal:
        if given is not None:
            raise ValueError(f"{path} is a prior of pixels, not of codes: leave --teacher out")
        return None
    if given is not None:
        return _load_stage1(given, "--teacher")
    found = load_teacher(path)
    if found is None:
        raise ValueError(
            f"{path} holds a {trained.network} without the autoencoder whose codes it draws: give "
            "that one's workdir or model file as --teacher"
        )
    return Stage1(*found)


def _load_stage1(path: str | Path, option: str) -> Stage1:
    trained = load_trained(path)
    if trained.network not in AUTOENCODERS:
        raise ValueError(
            f"{option} {path} holds a {trained.network}; expected an autoencoder: "
            + ", ".join(AUTOENCODERS)
        )
    return Stage1(*teacher_of(trained, path))


def _condition_stage1(
    module: GPT | PixelCNN, stage1: Stage1 | None, given: str | Path | None
) -> Stage1 | None:
    if isinstance(module, PixelCNN) or module.condition != "codes":
        if given is not None:
            raise ValueError(
                "--condition-teacher is for a prior whose condition is codes, and this one's is "
                "not: leave it out"
            )
        return None
    found = stage1 if given is None else _load_stage1(given, "--condition-teacher")
    if found.module.codebook_size > module.vocab_size:
        raise ValueError(
            f"the condition's autoencoder has {found.module.codebook_size} codes and this prior "
            f"knows {module.vocab_size} tokens; give the autoencoder of its condition as "
            "--condition-teacher"
        )
    return found


def _check_codebook(module: GPT | PixelCNN, stage1: Autoencoder, conditioned: bool) -> None:
    """Raises ValueError where the prior's codes are not so many as the autoencoder's."""
    codes, tokens = stage1.codebook_size, getattr(module, "vocab_size", None) or module.levels
    # Conditions share the vocabulary: it may be longer where they are what fills it.
    filled = isinstance(module, GPT) and (module.classes == tokens or conditioned)
    if codes == tokens or (codes < tokens and filled):
        return
    remedy = "it was trained on another autoencoder; give that one as --teacher"
    if isinstance(module, GPT) and module.condition == "codes" and codes < tokens:
        remedy = "give the autoencoder of its condition as --condition-teacher"
    raise ValueError(f"the autoencoder has {codes} codes and this prior draws {tokens}: {remedy}")


def _check_downsampling(trained: Trained, stage1: Autoencoder) -> None:
    """Raises ValueError where the autoencoder's maps are not those of the prior."""
    rows, columns = map_size_of(trained.module)
    # A run says of which pictures its maps are; with model files it is the autoencoder's size.
    side = trained.config.data.image_size if trained.config else stage1.image_size
    sites = side // stage1.downsampling
    if (rows, columns) != (sites, sites):
        raise ValueError(
            f"this prior draws maps of {rows}x{columns} codes, but {side} px are {sites}x{sites} "
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
    """`function` of arrays [n, ...], a few at a time; the last ones are filled up with copies."""
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
