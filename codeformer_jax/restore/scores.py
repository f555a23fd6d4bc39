"""Scores of restored faces in one file beside the results."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from codeformer_jax.restore.jobs import Job, Plan
from codeformer_jax.restore.restore_options import RestoreError
from codeformer_jax.restore.scorer import Scorer
from codeformer_jax.system.atomic import atomic_path

SCORES_FILE = "scores.json"


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


def read_scores(folder: pathlib.Path, about: dict[str, Any], force: bool) -> dict[str, Any]:
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
        faces, prior = dict(content["faces"]), content.get("prior_sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"cannot be read as scores ({error}); --force replaces it"
    else:
        # Equal for a workdir and a model file exported from it.
        if prior == about["prior_sha256"]:
            return faces
        problem = (
            f"has scores by another prior ({content.get('prior')}); give another output folder, or "
            "--force to replace it"
        )
    if force:
        return {}
    raise RestoreError(f"'{path}' {problem}")


def write_scores(folder: pathlib.Path, about: dict[str, Any], faces: dict[str, Any]) -> None:
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
