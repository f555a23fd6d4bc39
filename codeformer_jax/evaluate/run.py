"""Evaluation of what a training workdir or a model file holds, as a config says."""

import dataclasses
from pathlib import Path
from typing import Any

import ml_collections

from codeformer_jax import paths
from codeformer_jax.data.sources import open_heldout
from codeformer_jax.evaluate.evaluation import Evaluation
from codeformer_jax.evaluate.evaluator import evaluate
from codeformer_jax.evaluate.testset import StoredPairs, open_testset
from codeformer_jax.nn import LPIPS, fit_lpips
from codeformer_jax.nn.precision import products_in
from codeformer_jax.tasks import common, settings
from codeformer_jax.train.checkpoint import load_teacher, load_trained
from codeformer_jax.train.start import find_teacher, load_lpips

EVALUATED = ("codeformer", "vqgan", "taming_vqgan", "vqvae")


def evaluate_run(config: ml_collections.ConfigDict, workdir: str | Path) -> Evaluation:
    """Scores the averaged network of `workdir` (or a model file) on held-out images.

    The images are the pairs of the test set `config.eval.testset`, whose files are verified first
    and which stands in the evaluation's settings; or those of the source `config.eval.path`, or
    else the held-out part of `config.data`, degraded by the recipe `config.eval.recipe` of
    `config.degradation`.

    Raises:
        FileNotFoundError: where checkpoint, weights or images are missing.
        DamagedTestSet: where a file of the test set is not what its manifest says.
        ValueError: for a value out of its range, or networks and images that do not fit together.
    """
    config, workdir = paths.local_config(config), paths.local(workdir, "workdir")
    settings.check(config)
    pairs = _open_pairs(config)
    trained = load_trained(workdir, config.eval.checkpoint)
    if trained.network not in EVALUATED:
        raise ValueError(
            f"{workdir} holds a {trained.network}, which makes no pictures to compare with the "
            "truth; what a prior costs in bits per dimension stands in its metrics.jsonl (eval/...)"
        )
    teacher, recipe, size = None, None, trained.module.image_size
    if config.data.image_size != size:
        raise ValueError(
            f"{workdir} holds a network for {size} px, but the config says data.image_size="
            f"{config.data.image_size}: use the config that it was trained with"
        )
    if pairs is not None and pairs.size != size:
        raise ValueError(
            f"{workdir} holds a network for {size} px, but the test set {pairs.root} is of "
            f"{pairs.size} px: make one with `codeformer-jax testset --size {size}`"
        )
    if trained.network == "codeformer":
        if "degradation" not in config:
            raise ValueError(
                f"{workdir} holds a CodeFormer, but the config of task {config.task!r} says "
                "nothing of degradation: use a stage II or III config"
            )
        if pairs is None:
            recipe = common.read_recipe(config, config.eval.recipe)
        teacher = find_teacher(config, None) if config.teacher else load_teacher(workdir)
    with products_in(common.precision_of(trained.config or config)):
        evaluation = evaluate(
            trained.module,
            trained.variables,
            open_heldout(config) if pairs is None else pairs,
            teacher=teacher,
            recipe=recipe,
            seed=config.seed,
            weights=config.eval.weights,
            adain=config.eval.adain,
            batch_size=config.eval.batch_size,
            lpips=_lpips(config.eval.lpips),
            limit=config.eval.limit,
        )
    if pairs is None:
        return evaluation
    return dataclasses.replace(
        evaluation, settings={**evaluation.settings, "testset": pairs.summary()}
    )


def _open_pairs(config: ml_collections.ConfigDict) -> StoredPairs | None:
    root = config.eval.get("testset")  # Configs of older runs know nothing of it.
    if not root:
        return None
    if config.eval.path:
        raise ValueError(
            f"eval.testset='{root}' and eval.path='{config.eval.path}' are both given: a test set "
            "holds its own images, so give one of the two"
        )
    return open_testset(root, progress=True)


def _lpips(path: str | None) -> tuple[LPIPS, Any] | None:
    """Returns module and variables of converted weights, of either network."""
    if not path:
        return None
    variables = load_lpips(path)
    return fit_lpips(LPIPS(), variables), variables
