"""Evaluation of the network of a workdir or model file, by a config."""

import dataclasses
import json
from typing import Any

import ml_collections

from codeformer_jax.checkpoints.teachers import find_teacher, load_lpips
from codeformer_jax.checkpoints.trained import Trained, load_teacher, load_trained
from codeformer_jax.checkpoints.workdir import COMPUTATION
from codeformer_jax.convert import role_of
from codeformer_jax.data.sources import open_heldout
from codeformer_jax.evaluate.evaluation import Evaluation
from codeformer_jax.evaluate.evaluator import EVALUATED_ROLES, evaluate
from codeformer_jax.evaluate.report import METRICS_FILE
from codeformer_jax.evaluate.testset import StoredPairs, open_testset
from codeformer_jax.nn import LPIPS, fit_lpips
from codeformer_jax.nn.precision import products_in
from codeformer_jax.system import storage
from codeformer_jax.system.storage import Path
from codeformer_jax.tasks import common, settings

# Sections whose settings describe the network, except for those of its training.
_NETWORK = ("model", "codeformer")
_TRAINING = ("beta", "beta_on", "ema_decay", "fusion_zero_init")


def evaluate_run(config: ml_collections.ConfigDict, workdir: str | Path) -> Evaluation:
    """Scores the averaged network of a workdir or model file on held-out images.

    The images are the pairs of the test set `config.eval.testset`, which is verified first; or
    those of the source `config.eval.path`; or else the held-out part of `config.data`, degraded by
    the recipe `config.eval.recipe` of `config.degradation`.

    Args:
        config: config of the network's run, or one that agrees with it.
        workdir: folder of a training run, or a model file.

    Raises:
        FileNotFoundError: checkpoint, weights or images are missing.
        DamagedTestSet: a file of the test set differs from its manifest.
        ValueError: a value out of range, or networks and images that do not fit together.
    """
    config, workdir = storage.local_config(config), storage.to_path(workdir, "workdir")
    settings.check(config)
    pairs = _open_pairs(config)
    trained = load_trained(workdir, config.eval.checkpoint)
    _check_fits(trained, config, pairs, workdir)
    teacher, recipe = None, None
    if role_of(trained.module) == "restorer":
        if "degradation" not in config:
            raise ValueError(
                f"{workdir} holds a CodeFormer, but the config of task {config.task!r} says "
                "nothing of degradation: leave out --config, since a run's own config is the "
                "default, or use a stage II or III config"
            )
        if pairs is None:
            recipe = common.read_recipe(config, config.eval.recipe)
        if hasattr(trained.module, "codebook_size"):  # Without codes a teacher has nothing to say.
            teacher = _find_teacher(config, trained, workdir)
    with products_in(common.precision_of(config)):
        evaluation = evaluate(
            _computed_as(config, trained.module),
            trained.variables,
            open_heldout(config) if pairs is None else pairs,
            teacher=teacher,
            recipe=recipe,
            seed=config.seed,
            weights=config.eval.weights,
            adain=config.eval.adain,
            batch_size=config.eval.batch_size,
            lpips=_distance(config, "lpips"),
            st_lpips=_distance(config, "st_lpips"),
            metrics=config.eval.get("metrics"),
            limit=config.eval.limit,
        )
    if pairs is None:
        return evaluation
    return dataclasses.replace(
        evaluation, settings={**evaluation.settings, "testset": pairs.summary()}
    )


def report_folder(
    workdir: str | Path, output: str | Path | None = None, *, force: bool = False
) -> Path:
    """Returns the folder to which an evaluation is written.

    Args:
        workdir: folder of a training run, or a model file.
        output: the folder; by default `eval` in the workdir or beside the model file.
        force: whether to replace a report in the folder.

    Raises:
        FileExistsError: the folder holds a report and `force` is False.
    """
    workdir = storage.to_path(workdir, "workdir")
    output = output or (workdir if workdir.is_dir() else workdir.parent) / "eval"
    folder = storage.to_path(output, "output")
    if (folder / METRICS_FILE).exists() and not force:
        raise FileExistsError(
            f"{folder} holds the report of an earlier evaluation: give --output=DIR to keep both, "
            "or --force to replace it"
        )
    return folder


def _check_fits(
    trained: Trained,
    config: ml_collections.ConfigDict,
    pairs: StoredPairs | None,
    workdir: str | Path,
) -> None:
    """Raises ValueError if the network does not fit the config or the test set."""
    if role_of(trained.module) not in EVALUATED_ROLES:
        raise ValueError(
            f"{workdir} holds a {trained.network}, which makes no pictures to compare with the "
            "truth; a prior's bits per dimension are in its metrics.jsonl (eval/...)"
        )
    if trained.config is not None:
        _check_same_network(trained.config, config, workdir)
    size = trained.module.image_size
    if config.data.image_size != size:
        raise ValueError(
            f"data.image_size={config.data.image_size}, but {workdir} holds a network for {size} "
            f"px: give --config.data.image_size={size}, or the config that it was trained with"
        )
    if pairs is not None and pairs.size != size:
        raise ValueError(
            f"{workdir} holds a network for {size} px, but the test set {pairs.root} is of "
            f"{pairs.size} px: make one with `codeformer-jax testset --size {size}`"
        )


def _check_same_network(
    own: ml_collections.ConfigDict, given: ml_collections.ConfigDict, workdir: str | Path
) -> None:
    """Raises ValueError if a setting of the network is in both configs and differs."""
    own, given = json.loads(own.to_json()), json.loads(given.to_json())
    differences = [
        f"{section}.{name}={value} (the run: {own[section][name]})"
        for section in _NETWORK
        for name, value in given.get(section, {}).items()
        if name not in (*COMPUTATION, *_TRAINING) and value != own.get(section, {}).get(name, value)
    ]
    if differences:
        raise ValueError(
            f"the config describes another network than the one in {workdir}: "
            f"{', '.join(differences)}. Leave out --config and these settings: the run's own "
            "config is the default"
        )


def _find_teacher(
    config: ml_collections.ConfigDict, trained: Trained, workdir: str | Path
) -> tuple[Any, Any] | None:
    """Returns the teacher that the config names, or the run's own in the workdir."""
    own = trained.config is not None and trained.config.get("teacher") == config.teacher
    kept = load_teacher(workdir)
    if config.teacher and not (own and kept):
        return find_teacher(config, None)
    return kept


def _computed_as(config: ml_collections.ConfigDict, module: Any) -> Any:
    """Returns the module with the config's settings of its computation, such as the dtype."""
    fields = common.network_fields(config.model)
    return module.clone(**{k: fields[k] for k in COMPUTATION if k in fields and hasattr(module, k)})


def _open_pairs(config: ml_collections.ConfigDict) -> StoredPairs | None:
    root = config.eval.get("testset")  # Configs of older runs do not have it.
    if not root:
        return None
    if config.eval.path:
        raise ValueError(
            f"eval.testset='{root}' and eval.path='{config.eval.path}' are both given: a test set "
            "holds its own images, so give one of the two"
        )
    return open_testset(root)


def _distance(config: ml_collections.ConfigDict, name: str) -> tuple[LPIPS, Any] | None:
    """Returns module and variables of the weights that setting `eval.NAME` gives, if any."""
    path = config.eval.get(name)  # Configs of older runs do not have 'st_lpips'.
    if not path:
        return None
    variables = load_lpips(path, (name,))
    return fit_lpips(LPIPS(), variables), variables
