"""Files of `codeformer-jax sample`: named and checked beforehand, written when all is drawn."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codeformer_jax.convert import code_fingerprint
from codeformer_jax.data.images import SUFFIXES, write_image
from codeformer_jax.priors.pictures import Order
from codeformer_jax.priors.prior import Pictures, Prior, Values
from codeformer_jax.priors.sheet import Picture
from codeformer_jax.system.atomic import atomic_directory, atomic_path

_SINGLE = re.compile(r"\d{4,}\.png")


@dataclass(frozen=True)
class Outputs:
    """Files of a call: the sheet, the codes, and the folder of single pictures, or None."""

    sheet: Path
    codes: Path
    folder: Path | None


def plan_outputs(sheet: Path, each: bool, force: bool) -> Outputs:
    """Names of what will be written; raises where that cannot be, or is there already."""
    if sheet.suffix.lower() not in SUFFIXES:
        raise ValueError(f"cannot write '{sheet}': expected a name ending in {', '.join(SUFFIXES)}")
    outputs = Outputs(sheet, sheet.with_suffix(".npz"), sheet.with_suffix("") if each else None)
    for path in (outputs.sheet, outputs.codes):
        if path.is_dir():
            raise IsADirectoryError(f"'{path}' is a folder; give another name as -o")
    if outputs.folder is not None and os.path.lexists(outputs.folder):
        _check_replaceable(outputs.folder)
    for path in filter(None, (outputs.sheet, outputs.codes, outputs.folder)):
        if os.path.lexists(path) and not force:
            raise FileExistsError(f"{path}: exists; pass --force to replace it")
    for folder in sheet.parents:
        if os.path.lexists(folder):
            if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
                what = "may not be written to" if folder.is_dir() else "is a file"
                raise OSError(f"cannot write '{sheet}': '{folder}' {what}; give another -o")
            break
    return outputs


def _check_replaceable(folder: Path) -> None:
    """Raises unless a folder holds single pictures of such a call and nothing else."""
    foreign = None if folder.is_dir() else folder
    if foreign is None:
        foreign = next((p for p in folder.iterdir() if not _SINGLE.fullmatch(p.name)), None)
    if foreign is not None:
        raise FileExistsError(
            f"the folder '{folder}' of the single pictures would replace '{foreign}', which is "
            "none of them; give another -o, or --no-each"
        )


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot make the folder '{folder}': {error.strerror}; give another -o"
        ) from error


def describe(
    prior: Prior, order: Order, values: Values, given: dict[str, Any]
) -> dict[str, np.ndarray]:
    """What another program needs to decode the maps, or to draw them again."""
    settings = {
        **{name: value if value is None else str(value) for name, value in given.items()},
        "network": prior.network,
        "step": prior.step,
        "seed": order.seed,
        "temperature": float(order.how.temperature),
        "top_k": order.how.top_k,
        "top_p": order.how.top_p,
        "levels": prior.levels,
        "downsampling": prior.downsampling,
    }
    if prior.stage1 is not None:
        settings["autoencoder"] = code_fingerprint(prior.stage1.module, prior.stage1.variables)
    arrays = {
        "codes": values.astype(np.int32),
        "index": np.arange(order.number),
        "classes": None if order.classes is None else np.array(order.classes, np.int32),
        "condition": order.condition,
        "given": order.given,
        "keep": order.keep,
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
    if outputs.folder is not None:
        with atomic_directory(outputs.folder, replace=force) as folder:
            for index, picture in enumerate(pictures):
                write_image(folder / f"{index:04d}.png", picture)
    with atomic_path(outputs.codes) as path, open(path, "wb") as file:
        np.savez_compressed(file, **stored)
    write_image(outputs.sheet, sheet)
