"""Origins of a run: an earlier stage, a teacher, perceptual weights, precomputed codes."""

import json
from dataclasses import dataclass
from typing import Any

import jax
import ml_collections
import numpy as np

from codeformer_jax import convert
from codeformer_jax.checkpoints.teachers import find_teacher, load_lpips
from codeformer_jax.checkpoints.trained import load_discriminator, load_teacher, load_trained
from codeformer_jax.checkpoints.workdir import (
    CONFIG_FILE,
    TEACHER_FILE,
    compare_configs,
    read_config,
    saved_steps,
)
from codeformer_jax.convert import code_fingerprint
from codeformer_jax.data.examples import Source
from codeformer_jax.data.precomputed_codes import Codes, CodesError, WithCodes
from codeformer_jax.system.atomic import atomic_path
from codeformer_jax.system.keys import make_key
from codeformer_jax.system.storage import Path
from codeformer_jax.tasks import Task, common
from codeformer_jax.tasks.state import PyTree


@dataclass(frozen=True)
class Start:
    """Variables that a run starts from, and those that it never changes.

    Attributes:
        resuming: whether the workdir has a checkpoint to resume from.
        previous: variables of the network that `task.init` starts from, or None.
        frozen: variables of 'teacher' and 'lpips', if the task uses them.
        teacher: module and variables of the teacher, to be saved beside the checkpoints, or None.
        discriminator: variables that the discriminator starts from, or None.
    """

    resuming: bool
    previous: PyTree | None
    frozen: dict[str, PyTree]
    teacher: tuple[Any, PyTree] | None
    discriminator: PyTree | None = None

    def write(self, config: ml_collections.ConfigDict, workdir: Path) -> None:
        """Writes the config and the teacher, so that the workdir needs no other file."""
        workdir.mkdir(parents=True, exist_ok=True)
        if self.teacher is not None and not self.resuming:
            network = convert.network_of(self.teacher[0])
            convert.save_model(workdir / TEACHER_FILE, network, *self.teacher)
        with atomic_path(workdir / CONFIG_FILE) as path:
            path.write_text(json.dumps(json.loads(config.to_json()), indent=2) + "\n")


def prepare(task: Task, config: ml_collections.ConfigDict, workdir: Path) -> Start:
    """Reads everything that a run starts from; writes nothing.

    Args:
        task: the task to train.
        config: the run's config.
        workdir: the run's folder, which need not exist.

    Raises:
        ValueError: if the workdir belongs to another model, or no teacher was given.
        FileNotFoundError: if a given file or workdir does not exist.
    """
    resuming = bool(saved_steps(workdir))
    if resuming:
        compare_configs(read_config(workdir), config, workdir)
    origin = None
    if config.init_from and not resuming:
        origin = load_trained(config.init_from)
        taught = {convert.network_of(task.teacher)} if task.needs_teacher else set()
        if origin.network not in (starts := sorted({task.network} | taught)):
            raise ValueError(
                f"init_from={config.init_from} holds a {origin.network}; task {config.task!r} "
                f"starts from a {' or a '.join(starts)}"
            )
    teacher = None
    if task.needs_teacher:
        teacher = load_teacher(workdir) if resuming else find_teacher(config, origin)
        _check_fits(task, config, *teacher)
    frozen = {} if teacher is None else {"teacher": teacher[1]}
    if task.lpips is not None:
        frozen["lpips"] = load_lpips(config.loss.lpips)
    previous = origin and task.start_from(origin.variables, origin.config)
    discriminator = None
    if config.get("init_discriminator_from") and not resuming:
        discriminator = load_discriminator(config.init_discriminator_from)
    return Start(resuming, previous, frozen, teacher, discriminator)


def check_teacher(
    psnr: float, teacher: PyTree, codebook: np.ndarray | None, minimum: float
) -> None:
    """Refuses a teacher whose codes teach nothing.

    The published configs of stages II and III take their targets from a VQGAN with random weights:
    such a run trains for days and learns nothing.

    Args:
        psnr: mean PSNR in dB of the teacher's reconstructions of some images.
        teacher: the teacher's variables.
        codebook: the codebook [n, d] of the network in training, or None if it has none.
        minimum: the lowest PSNR that is accepted, in dB.

    Raises:
        ValueError: if the codebooks differ, or the PSNR is too low.
    """
    own = np.asarray(teacher["params"].get("quantize", {}).get("embedding", np.zeros(0)))
    same = codebook is None or (
        own.shape == codebook.shape and np.allclose(own, codebook, atol=1e-6)
    )
    if not same:
        raise ValueError(
            "the teacher's codebook is not the one of the network in training, so its codes mean "
            "nothing to it: give the stage-I run that the network comes from as --config.teacher"
        )
    if not psnr >= minimum:
        raise ValueError(
            f"the teacher reconstructs clean images at {psnr:.2f} dB, under the floor of "
            f"{minimum:g} dB: it is untrained or made for other images. Train stage I longer, or "
            "lower --config.teacher_min_psnr if you mean it"
        )


def _check_fits(task: Task, config: ml_collections.ConfigDict, module: Any, given: PyTree) -> None:
    """Raises ValueError if the teacher is not the network that the task describes."""
    if type(module) is not type(task.teacher):
        raise ValueError(
            f"task {config.task!r} with this config learns the codes of a "
            f"{convert.network_of(task.teacher)}; the teacher given is a "
            f"{convert.network_of(module)}: give another one as --config.teacher=PATH"
        )
    side = task.teacher.image_size
    pixels = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
    expected = jax.eval_shape(task.teacher.init, make_key(0), pixels)["params"]
    common.transplant(expected, given["params"], {*expected, *given["params"]})


def with_codes(
    task: Task, config: ml_collections.ConfigDict, source: Source, frozen: dict[str, PyTree]
) -> Source:
    """Returns a source with the codes in folder `config.data.codes`.

    Args:
        task: a task with a teacher.
        config: the run's config.
        source: the images that were encoded.
        frozen: the run's frozen networks, with 'teacher'.

    Raises:
        CodesError: if the codes belong to other images, another size or another network than the
            teacher, or the folder is damaged.
        FileNotFoundError: if there are no codes.
        ValueError: if the task has no teacher.
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
