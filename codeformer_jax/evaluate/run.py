"""Evaluation of what a training workdir or a model file holds, as a config says."""

from pathlib import Path

import ml_collections

from codeformer_jax.convert import load_model
from codeformer_jax.data.folder import ImageFolder
from codeformer_jax.data.pipeline import Source, open_source
from codeformer_jax.degrade import Recipe
from codeformer_jax.evaluate.evaluation import Evaluation
from codeformer_jax.evaluate.evaluator import evaluate
from codeformer_jax.train.checkpoint import load_trained


def evaluate_run(config: ml_collections.ConfigDict, workdir: str | Path) -> Evaluation:
    """Scores the averaged network of `workdir` (or a model file) on held-out images.

    The images are those of the folder `config.eval.path`, or else the held-out part of
    `config.data`; the degradation is the recipe `config.eval.recipe` of `config.degradation`.

    Raises:
        FileNotFoundError: where checkpoint, weights or images are missing.
        ValueError: where network, teacher and images do not fit together.
    """
    trained = load_trained(workdir, config.eval.checkpoint)
    teacher, recipe = trained.teacher, None
    if trained.network == "codeformer":
        if "degradation" not in config:
            raise ValueError(
                f"{workdir} holds a CodeFormer, but the config of task {config.task!r} says "
                "nothing of degradation: use a stage II or III config"
            )
        recipe = Recipe.create(**config.degradation[config.eval.recipe])
        if teacher is None and config.get("teacher"):
            teacher_run = load_trained(config.teacher)
            teacher = (teacher_run.module, teacher_run.variables)
    lpips = load_model(config.eval.lpips)[1:] if config.eval.lpips else None
    return evaluate(
        trained.module,
        trained.variables,
        open_images(config),
        teacher=teacher,
        recipe=recipe,
        seed=config.seed,
        weights=config.eval.weights,
        batch_size=config.eval.batch_size,
        lpips=lpips,
        limit=config.eval.limit,
    )


def open_images(config: ml_collections.ConfigDict) -> Source:
    """The images that `config` evaluates on."""
    if config.eval.path:
        return ImageFolder(config.eval.path, config.data.image_size, "all")
    return open_source(config.data, "heldout")
