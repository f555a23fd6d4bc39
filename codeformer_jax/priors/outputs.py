"""Files of `codeformer-jax sample`, checked before sampling and written after it."""

import json
import os
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from codeformer_jax.convert import code_fingerprint
from codeformer_jax.data.images import SUFFIXES, write_image
from codeformer_jax.priors.kinds import SamplePlan, Values
from codeformer_jax.priors.prior import Pictures, Prior
from codeformer_jax.priors.sheet import Picture
from codeformer_jax.system import storage
from codeformer_jax.system.atomic import atomic_directory, atomic_path
from codeformer_jax.system.storage import Path

_SINGLE = re.compile(r"\d{4,}\.png")


@dataclass(frozen=True)
class Outputs:
    """Files of one call, and the folder of the single pictures."""

    sheet: Path
    codes: Path
    folder: Path


def plan_outputs(sheet: str | os.PathLike, force: bool) -> Outputs:
    """Names the files to write and checks that they can be written.

    Args:
        sheet: file of the sheet; the other names follow from it.
        force: whether existing files may be replaced.

    Returns:
        The names.

    Raises:
        ValueError: if the sheet's suffix is not an image format's.
        OSError: if something exists and may not be replaced.
    """
    sheet = storage.to_path(sheet)
    if sheet.suffix.lower() not in SUFFIXES:
        raise ValueError(f"cannot write '{sheet}': expected a name ending in {', '.join(SUFFIXES)}")
    outputs = Outputs(sheet, sheet.with_suffix(".npz"), sheet.with_suffix(""))
    for path in (outputs.sheet, outputs.codes):
        if path.is_dir():
            raise IsADirectoryError(f"'{path}' is a folder; give another name as -o")
    if storage.lexists(outputs.folder):
        _check_replaceable(outputs.folder)
    for path in (outputs.sheet, outputs.codes, outputs.folder):
        if storage.lexists(path) and not force:
            raise FileExistsError(f"{path}: exists; pass --force to replace it")
    return outputs


def _check_replaceable(folder: Path) -> None:
    """Raises FileExistsError if a folder holds anything but single pictures of such a call."""
    foreign = None if folder.is_dir() else folder
    if foreign is None:
        foreign = next((p for p in folder.iterdir() if not _SINGLE.fullmatch(p.name)), None)
    if foreign is not None:
        raise FileExistsError(
            f"the folder '{folder}' of the single pictures would replace '{foreign}', which is "
            "another file; give another -o"
        )


def describe(
    prior: Prior, plan: SamplePlan, values: Values, inputs: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Collects what another program needs to decode the maps, or to sample them again.

    Args:
        prior: the prior.
        plan: plan of the call.
        values: the sampled maps.
        inputs: names of the files that were read.

    Returns:
        Arrays of the .npz file.
    """
    settings = {
        **{name: value if value is None else str(value) for name, value in inputs.items()},
        "network": prior.network,
        "step": prior.step,
        "seed": plan.seed,
        "temperature": float(plan.sampler.temperature),
        "top_k": plan.sampler.top_k,
        "top_p": plan.sampler.top_p,
        "levels": prior.levels,
        "downsampling": prior.downsampling,
    }
    if prior.stage1 is not None:
        settings["autoencoder"] = code_fingerprint(prior.stage1.module, prior.stage1.variables)
    arrays = {
        "codes": values.astype(np.int32),
        "index": np.arange(plan.number),
        "classes": None if plan.classes is None else np.array(plan.classes, np.int32),
        "condition": plan.condition,
        "given": plan.known,
        "keep": plan.known_mask,
        "settings": np.array(json.dumps(settings)),
    }
    return {name: array for name, array in arrays.items() if array is not None}


def write_outputs(
    outputs: Outputs,
    sheet: Picture,
    pictures: Pictures,
    stored: dict[str, np.ndarray],
    force: bool,
) -> None:
    """Writes the single pictures, the codes and last the sheet, each whole or not at all.

    Args:
        outputs: the names.
        sheet: picture of all samples.
        pictures: the samples.
        stored: see `describe`.
        force: whether existing files are replaced.
    """
    with atomic_directory(outputs.folder, replace=force) as folder:
        for index, picture in enumerate(pictures):
            write_image(folder / f"{index:04d}.png", picture)
    with atomic_path(outputs.codes) as path, open(path, "wb") as file:
        np.savez_compressed(file, **stored)
    write_image(outputs.sheet, sheet)
