"""`codeformer-jax restore`: finds the weights, then restores files."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, SupportsFloat

from codeformer_jax.restore.errors import RestoreError
from codeformer_jax.restore.files import RestoreSummary, Run, make_folders, run_plan
from codeformer_jax.restore.jobs import FileOptions, plan_files
from codeformer_jax.restore.restorer import Restorer, check_weight
from codeformer_jax.restore.samples import Samples
from codeformer_jax.restore.score import Scorer

DEFAULT_WEIGHTS = pathlib.Path("weights", "codeformer.safetensors")

_URL = "https://github.com/sczhou/CodeFormer/releases/download/v0.1.0/codeformer.pth"

NO_WEIGHTS = f"""\
no weights: there is no '{DEFAULT_WEIGHTS.as_posix()}' here. Fetch and convert the published ones:
  curl -L -o codeformer.pth {_URL}
  codeformer-jax convert codeformer.pth {DEFAULT_WEIGHTS.as_posix()}
(they carry a non-commercial licence), or give --checkpoint a model file or a training workdir."""


def restore_command(
    inputs: Sequence[str | os.PathLike],
    output_dir: str | os.PathLike,
    *,
    checkpoint: str | os.PathLike | None = None,
    which: str | int = "latest",
    w: SupportsFloat = 0.5,
    adain: bool | None = None,
    batch_size: int | None = None,
    keep_gray: bool | None = None,
    keep_known: bool | None = None,
    samples: int | None = None,
    seed: int | None = None,
    temperature: float | None = None,
    score: str | os.PathLike | None = None,
    score_teacher: str | os.PathLike | None = None,
    **files: Any,
) -> RestoreSummary:
    """Restores as `restore_files` does; everything that can be wrong is checked before loading.

    Args:
        checkpoint: model file or workdir; None is `weights/codeformer.safetensors` here.
        which: checkpoint of a workdir: 'latest', 'best' or a step.
        keep_gray, keep_known: see `Restorer`; None is what the network says.
        samples, seed, temperature: see `Samples`; None draws none.
        score, score_teacher: prior by which results are scored, see `Scorer.load`.
        Others: see `restore_files`.

    Raises:
        RestoreError: see `restore_files`, `Restorer.load` and `Scorer.load`; without weights, the
            two commands that fetch and convert them.
    """
    w = check_weight(w)
    drawn = _samples(samples, seed, temperature)
    if score is None and score_teacher is not None:
        raise RestoreError("--score-teacher is the autoencoder of a prior: give that as --score")
    if checkpoint is None:
        if not DEFAULT_WEIGHTS.exists():
            raise RestoreError(NO_WEIGHTS)
        checkpoint = DEFAULT_WEIGHTS
    plan = plan_files(
        inputs,
        output_dir,
        FileOptions(**files),
        samples=drawn.number if drawn else 0,
        scores=score is not None,
    )
    restorer = Restorer.load(
        checkpoint,
        which=which,
        batch_size=batch_size,
        keep_gray=keep_gray,
        keep_known=keep_known,
    )
    scorer = None if score is None else Scorer.load(score, restorer, teacher=score_teacher)
    make_folders(plan)
    run = Run(restorer, w, adain, drawn, scorer)
    return run_plan(plan, run, progress=None)


def _samples(number: int | None, seed: int | None, temperature: float | None) -> Samples | None:
    if number is None:
        if temperature is not None:
            raise RestoreError("--temperature is for drawn codes: say how many by --samples")
        if seed is not None:
            raise RestoreError("--seed is for drawn codes: say how many by --samples")
        return None
    return Samples(number, seed or 0, 1.0 if temperature is None else temperature)
