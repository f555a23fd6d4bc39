"""Precomputed codes in place of the teacher's forward pass, checked against the teacher."""

from typing import Any

import ml_collections

from codeformer_jax.convert import code_fingerprint
from codeformer_jax.data.examples import Source
from codeformer_jax.data.precomputed_codes import Codes, CodesError, WithCodes
from codeformer_jax.tasks import Task
from codeformer_jax.tasks.state import PyTree


def with_codes(
    task: Task, config: ml_collections.ConfigDict, source: Source, frozen: dict[str, PyTree]
) -> Source:
    """Adds the codes in the folder `config.data.codes` to the examples of a source.

    Args:
        task: the task, which has a teacher.
        config: the run's config.
        source: the images that were encoded.
        frozen: the run's frozen networks, with 'teacher'.

    Raises:
        CodesError: if the codes belong to other images, another size or another teacher, or the
            folder is damaged.
        FileNotFoundError: if there are no codes.
        ValueError: if the task has no teacher.
    """
    if not task.needs_teacher:
        raise ValueError(f"task {config.task!r} learns no codes: leave data.codes empty")
    codes = Codes(config.data.codes)
    _check(codes, task.teacher, config.data.image_size, frozen["teacher"])
    return WithCodes(source, codes)


def _check(codes: Codes, module: Any, image_size: int, teacher: PyTree) -> None:
    about, side = codes.description, image_size // module.downsampling
    pairs = {
        "image size": (about.image_size, image_size),
        "grid of codes": (about.grid, (side, side)),
        "codebook size": (about.codebook_size, module.codebook_size),
        "network (SHA-256 of its encoder and codebook)": (
            about.fingerprint,
            code_fingerprint(module, teacher),
        ),
    }
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise CodesError(
                f"'{codes.directory}' does not fit this run: its {what} is {theirs}, that of the "
                f"run's teacher {ours}. Encode with the stage-I network that teaches this run: "
                "codeformer-jax encode CHECKPOINT DIR --data SOURCE"
            )
