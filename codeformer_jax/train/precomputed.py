"""Codes computed once, in place of the teacher's forward pass."""

import ml_collections

from codeformer_jax.convert import code_fingerprint
from codeformer_jax.data.examples import Source
from codeformer_jax.data.precomputed_codes import Codes, CodesError, WithCodes
from codeformer_jax.tasks import Task
from codeformer_jax.tasks.state import PyTree


def with_codes(
    task: Task, config: ml_collections.ConfigDict, source: Source, frozen: dict[str, PyTree]
) -> Source:
    """Returns a source with the codes in folder `config.data.codes`.

    Args:
        task: a task with a teacher.
        config: of the run.
        source: the images that were encoded.
        frozen: the run's frozen networks, with 'teacher'.

    Raises:
        CodesError: the codes are of other images, of another size or by another network than the
            teacher; or the folder is damaged.
        FileNotFoundError: there are no codes.
        ValueError: the task has no teacher.
    """
    if not task.needs_teacher:
        raise ValueError(f"data.codes: task {config.task!r} learns no codes; leave it empty")
    codes, module = Codes(config.data.codes), task.teacher
    about, side = codes.description, config.data.image_size // module.downsampling
    fingerprint = code_fingerprint(module, frozen["teacher"])
    for what, found, expected in (
        ("image size", about.image_size, config.data.image_size),
        ("grid of codes", about.grid, (side, side)),
        ("codebook size", about.codebook_size, module.codebook_size),
        ("network (SHA-256 of its encoder and codebook)", about.fingerprint, fingerprint),
    ):
        if found != expected:
            raise CodesError(
                f"'{codes.directory}' does not fit this run: its {what} is {found}, that of the "
                f"run's teacher {expected}. Encode with the stage-I network that teaches this run: "
                "codeformer-jax encode CHECKPOINT DIR --data SOURCE"
            )
    return WithCodes(source, codes)
