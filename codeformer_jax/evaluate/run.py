"""Evaluation of what a training workdir or a model file holds, as a config says."""

from pathlib import Path

import ml_collections

from codeformer_jax.data.sources import open_heldout
from codeformer_jax.degrade import Recipe
from codeformer_jax.evaluate.evaluation import Evaluation
from codeformer_jax.evaluate.evaluator import evaluate
from codeformer_jax.nn import LPIPS
from codeformer_jax.train.checkpoint import load_teacher, load_trained
from codeformer_jax.train.start import find_teacher, load_lpips


def evaluate_run(config: ml_collections.ConfigDict, workdir: str | Path) -> Evaluation:
    """Scores the averaged network of `workdir` (or a model file) on held-out images.

    The images are those of the source `config.eval.path`, or else the held-out part of
    `config.data`; the degradation is the recipe `config.eval.recipe` of `config.degradation`.

    Raises:
        FileNotFoundError: where checkpoint, weights or images are missing.
        ValueError: where network, teacher and images do not fit together.
    """
    trained = load_trained(workdir, config.eval.checkpoint)
    teacher, recipe, size = None, None, trained.module.image_size
    if config.data.image_size != size:
        raise ValueError(
            f"{workdir} holds a network for {size} px, but the config says data.image_size="
            f"{config.data.image_size}: use the config that it was trained with"
        )
    if trained.network == "codeformer":
        if "degradation" not in config:
            raise ValueError(
                f"{workdir} holds a CodeFormer, but the config of task {config.task!r} says "
                "nothing of degradation: use a stage II or III config"
            )
        recipe = Recipe.from_config(config.degradation[config.eval.recipe])
        teacher = find_teacher(config, None) if config.teacher else load_teacher(workdir)
    lpips = (LPIPS(), load_lpips(config.eval.lpips)) if config.eval.lpips else None
    return evaluate(
        trained.module,
        trained.variables,
        open_heldout(config),
        teacher=teacher,
        recipe=recipe,
        seed=config.seed,
        weights=config.eval.weights,
        adain=config.eval.adain,
        batch_size=config.eval.batch_size,
        lpips=lpips,
        limit=config.eval.limit,
    )
