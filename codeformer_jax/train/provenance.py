"""A record of the data that a run trains on, so that a resumed run notices a change."""

import json
import logging
from typing import Any

import ml_collections

from codeformer_jax.checkpoints.workdir import read_config
from codeformer_jax.data.examples import Source, listing_digest
from codeformer_jax.system.atomic import atomic_path
from codeformer_jax.system.storage import Path

DATA_FILE = "data.json"

# Settings that choose the examples: changing one of them means to use other data.
_CHOOSING = (
    *("path", "seed", "heldout_fraction", "min_size", "max_unreadable"),
    *("max_megapixels", "synthetic_length", "heldout_length", "image_size"),
)

Description = dict[str, list[dict[str, Any]]]


def describe(**sources: Source) -> Description:
    """Describes sources without reading an image.

    Args:
        sources: sources or mixtures by name.

    Returns:
        {name: parts}. Each part has its source in words, its number of examples and a SHA-256: of
        names and lengths of a folder's images; of files, lengths and ranges of records; of the
        settings of synthetic faces.
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
    """Compares the data of a resumed run with those that it began with.

    With other data the batches of a step would change, and images could move between training and
    evaluation. A difference is only logged if a setting that chooses examples has changed too. A
    workdir without a description passes.

    Args:
        found: the description of the data as they are.
        config: the config of the resumed run.
        workdir: the run's folder.

    Raises:
        ValueError: if the data have changed, or the description is damaged.
    """
    file = workdir / DATA_FILE
    if not file.exists():
        return
    try:
        known = json.loads(file.read_text())
        lines = [line for name in found for line in _differences(name, known[name], found[name])]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{file} is damaged ({error!r}); remove it to resume with the data as they are"
        ) from error
    if not lines:
        return
    message = "the data are not what this run began with:\n" + "\n".join(lines)
    if _choosing(read_config(workdir)) != _choosing(config):
        logging.warning("%s", message)
        return
    raise ValueError(
        f"{message}\nRestore the data, start again in another --workdir, or remove {file} to "
        "resume with the data as they are."
    )


def _part(source: Source) -> dict[str, Any]:
    return {"source": repr(source), "examples": len(source), "sha256": listing_digest(source)}


def _differences(name: str, known: list[dict], found: list[dict]) -> list[str]:
    if len(known) != len(found):
        return [f"  {name}: {len(known)} sources then, {len(found)} now"]
    return [
        f"  {name}: {old['source']} had {old['examples']} examples; now {new['source']} has "
        f"{new['examples']}{' different ones' if old['examples'] == new['examples'] else ''}"
        for old, new in zip(known, found, strict=True)
        if (old["examples"], old["sha256"]) != (new["examples"], new["sha256"])
    ]


def _choosing(config: ml_collections.ConfigDict) -> list[Any]:
    return [config.data.get(name) for name in _CHOOSING] + [config.eval.get("path")]
