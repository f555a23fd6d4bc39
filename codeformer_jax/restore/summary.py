"""The scores of restored faces in one file, beside the results."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from codeformer_jax.restore.errors import RestoreError
from codeformer_jax.restore.jobs import Job, Plan
from codeformer_jax.restore.score import Scorer
from codeformer_jax.system.atomic import atomic_path

SCORES_FILE = "scores.json"


class Scores:
    """The scores of a call, written when it ends, also where it is interrupted."""

    def __init__(self, plan: Plan, scorer: Scorer | None, faces: dict[str, Any]):
        self._plan, self._scorer = plan, scorer
        self._faces, self._means = faces, []

    @classmethod
    def begin(cls, plan: Plan, scorer: Scorer | None) -> "Scores":
        """Reads what is there already; of a call without scores all of this does nothing.

        Raises:
            RestoreError: see `read_scores`.
        """
        if scorer is None:
            return cls(plan, scorer, {})
        force = plan.options.force
        return cls(plan, scorer, read_scores(plan.folder, scorer.describe(), force))

    def add(self, job: Job, bits: Sequence[Float[np.ndarray, "rows columns"] | None]) -> None:
        """Takes the scores of a picture whose results have been written."""
        if self._scorer is None:
            return
        for path, drawn, costs in zip(job.results, job.maps, bits, strict=True):
            name, heat_map = (x.relative_to(self._plan.folder).as_posix() for x in (path, drawn))
            self._faces[name] = {"source": str(job.source), "heat_map": heat_map}
            self._faces[name] |= describe_score(costs)
            self._means.append(self._faces[name]["bits_per_code"])

    def __enter__(self) -> "Scores":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._means:
            write_scores(self._plan.folder, self._scorer.describe(), self._faces)

    def summary(self) -> str:
        """A line for people; empty where there are no scores."""
        if not self._means:
            return ""
        about = self._scorer.describe()
        means, clean = np.array(self._means), about["bits_per_code_heldout"]
        beside = "" if clean is None else f"; clean held-out faces {clean:.2f}"
        return (
            f"bits per code {means.mean():.2f} ({means.min():.2f} to {means.max():.2f}{beside}; a "
            f"blind guess {about['bits_per_code_uniform']:.2f}) -> "
            f"{self._plan.folder / SCORES_FILE}"
        )


def describe_score(bits: Float[np.ndarray, "rows columns"]) -> dict[str, Any]:
    """A face's scores: the mean, and the bits of every code, rows from the top."""
    return {
        "bits_per_code": round(float(bits.mean()), 4),
        "map": bits.astype(np.float64).round(3).tolist(),
    }


def read_scores(folder: pathlib.Path, about: dict[str, Any], force: bool) -> dict[str, Any]:
    """The faces that the folder's scores have already; none where there is no such file.

    Raises:
        RestoreError: the scores are another prior's, or the file is damaged, without `force`.
    """
    path = folder / SCORES_FILE
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        faces = dict(content.pop("faces"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if force:
            return {}
        raise RestoreError(
            f"'{path}' cannot be read as scores ({error}); --force replaces it"
        ) from error
    # Whether it is given as a workdir or as a model file exported from it.
    if content.get("prior_sha256") == about["prior_sha256"]:
        return faces
    if force:
        return {}
    raise RestoreError(
        f"'{path}' has scores by another prior ({content.get('prior')}); give another output "
        "folder, or --force to replace it"
    )


def write_scores(folder: pathlib.Path, about: dict[str, Any], faces: dict[str, Any]) -> None:
    """Writes the file anew, the faces by their results' names below the folder."""
    # Maps are a line a row: a file that people read, too.
    lines = [f"    {json.dumps(name)}: {json.dumps(faces[name])}" for name in sorted(faces)]
    head = json.dumps(about, indent=2).removesuffix("\n}")
    with atomic_path(folder / SCORES_FILE) as path:
        path.write_text(head + ',\n  "faces": {\n' + ",\n".join(lines) + "\n  }\n}\n")
