"""The record of what a run trains on: a run that goes on notices when its data have changed."""

import json
import logging
from pathlib import Path
from typing import Any

import ml_collections

from codeformer_jax.checkpoints.workdir import read_config
from codeformer_jax.data.examples import Source, listing_digest
from codeformer_jax.system.atomic import atomic_path

DATA_FILE = "data.json"

# Settings that pick the examples: where one of them is changed, other data are what is wanted.
_PICKING = (
    *("path", "seed", "heldout_fraction", "min_size", "max_unreadable"),
    *("max_megapixels", "synthetic_length", "heldout_length", "image_size"),
)

Description = dict[str, list[dict[str, Any]]]


def describe(**sources: Source) -> Description:
    """{name: parts}, of each part its source in words, number of examples and a SHA-256.

    The hash is of names and lengths of a folder's images, of files, lengths and ranges of records,
    and of the settings of synthetic faces; no image is read.
    """
    return {
        name: [_part(each) for each in getattr(source, "sources", (source,))]
        for name, source in sources.items()
    }


def write(found: Description, workdir: Path) -> None:
    """Writes the description into the workdir."""
    with atomic_path(workdir / DATA_FILE) as path:
        path.write_text(json.dumps(found, indent=2) + "\n")


def check_unchanged(found: Description, config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Compares the data of a run that goes on with those that it began with.

    A difference is logged where a setting that picks examples was changed too, or else refused:
    the batches of a step would not be what they were, and images move between training and
    evaluation. Without a description in the workdir there is nothing to compare.

    Raises:
        ValueError: for data that are not what they were.
    """
    file = workdir / DATA_FILE
    if not file.is_file():
        return
    try:
        known = json.loads(file.read_text())
        lines = [line for name in found for line in _differences(name, known[name], found[name])]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{file} is damaged ({error!r}); remove it to go on with the data as they are"
        ) from error
    if not lines:
        return
    message = "the data are not what this run began with:\n" + "\n".join(lines)
    if _picking(read_config(workdir)) != _picking(config):
        logging.warning("%s", message)
        return
    raise ValueError(
        f"{message}\nBring them back, start anew in another --workdir, or remove {file} to go on "
        "with the data as they are now."
    )


def _part(source: Source) -> dict[str, Any]:
    return {"source": repr(source), "examples": len(source), "sha256": listing_digest(source)}


def _differences(name: str, known: list[dict], found: list[dict]) -> list[str]:
    if len(known) != len(found):
        return [f"  {name}: {len(known)} sources then, {len(found)} now"]
    return [
        _difference(name, old, new)
        for old, new in zip(known, found, strict=True)
        if (old["examples"], old["sha256"]) != (new["examples"], new["sha256"])
    ]


def _difference(name: str, old: dict, new: dict) -> str:
    if old["source"] != new["source"]:
        then = f"{old['source']} with {old['examples']} examples"
        return f"  {name}: {then}, now {new['source']} with {new['examples']}"
    if old["examples"] != new["examples"]:
        return f"  {name}: {old['source']} had {old['examples']} examples, now {new['examples']}"
    return f"  {name}: {old['source']} has {old['examples']} examples as before, but other ones"


def _picking(config: ml_collections.ConfigDict) -> list[Any]:
    return [config.data.get(name) for name in _PICKING] + [config.eval.get("path")]
