"""Evaluation on the held-out images during training, and the check of class labels."""

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Key

from codeformer_jax.data.pipeline import evaluation_batches
from codeformer_jax.data.sources import open_heldout
from codeformer_jax.ops.devices import on_all_devices
from codeformer_jax.system import hosts, parallel
from codeformer_jax.tasks import Task
from codeformer_jax.tasks.protocol import Evaluated
from codeformer_jax.tasks.state import PyTree, TrainState
from codeformer_jax.train.start import check_teacher

# Stream of randomness, folded into the seed; `run` and `step` have the others.
EVAL = 2


class Heldout:
    """Evaluation on the same images, with the same degradation, at every call.

    Args:
        task: the task to evaluate.
        config: the run's config.
        mesh: the run's devices.
        key: the run's key.
        names: the entries of a batch that the steps use.

    Attributes:
        source: the held-out images.
    """

    def __init__(
        self,
        task: Task,
        config: ml_collections.ConfigDict,
        mesh: Mesh,
        key: Key[Array, ""],
        names: tuple[str, ...],
    ):
        self.source = open_heldout(config)
        self._task, self._config, self._mesh = task, config, mesh
        self._key, self._names = key, names
        # A batch that the mesh does not divide is computed whole on every device.
        self._split = config.eval.batch_size % mesh.size == 0
        rows = parallel.batch_sharding(mesh) if self._split else parallel.replicated(mesh)
        self._measure = make_evaluation(task.eval_step, mesh, rows)
        # Sampling takes longer than all likelihoods, so only the first batch is sampled.
        samples = config.eval.get("samples")
        self._draw = make_evaluation(task.sample_step, mesh, rows) if samples else None

    def batches(self) -> Iterator[dict[str, jax.Array]]:
        """Yields the held-out batches: the entries `names`, 'index' and 'valid'."""
        loader = evaluation_batches(
            self.source,
            batch_size=self._config.eval.batch_size,
            host=jax.process_index() if self._split else 0,
            hosts=jax.process_count() if self._split else 1,
        )
        put = parallel.put_batch if self._split else parallel.put_replicated
        with contextlib.closing(loader):
            for batch in itertools.islice(loader, self._config.eval.batches):
                check_batch(self._task, self._config, batch)
                names = ("index", "valid", *self._names)
                yield put(self._mesh, {name: batch[name] for name in names if name in batch})

    def evaluate(
        self, state: TrainState, frozen: dict[str, PyTree]
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Evaluates a state on all held-out images.

        Args:
            state: the training state; its averaged parameters are evaluated.
            frozen: the run's frozen networks.

        Returns:
            The mean of each score, and panels [b, h, w, 3] of the first batch by name.
        """
        results: list[Evaluated] = []
        panels: dict[str, np.ndarray] = {}
        for number, batch in enumerate(self.batches()):
            hosts.at(f"evaluation, batch {number}")  # The limit of a stage is for one batch.
            arguments = (state, frozen, batch, self._key)
            result, valid = self._measure(*arguments)
            if not results:
                panels = dict(result.panels)
                if self._draw:
                    panels |= self._draw(*arguments)[0]
                panels = _fetch(dict(sorted(panels.items())))
            result, valid = _fetch((result.replace(panels={}), valid))
            results.append(jax.tree.map(lambda x, valid=valid: x[valid], result))
        scores = {
            name: float(np.mean(np.concatenate([r.metrics[name] for r in results])))
            for name in results[0].metrics
        }
        if self._task.codebook_size is not None:
            scores |= self._task.code_scores(np.concatenate([r.indices for r in results]))
        return scores, panels

    def check_teacher(self, state: TrainState, frozen: dict[str, PyTree]) -> None:
        """Checks the task's teacher, if it has one, with `start.check_teacher`.

        Args:
            state: the training state.
            frozen: the run's frozen networks.

        Raises:
            ValueError: if the teacher cannot teach.
        """
        if not self._task.needs_teacher:
            return
        batch = next(self.batches())
        whole = partial(jax.jit, out_shardings=parallel.replicated(self._mesh))
        valid = np.asarray(whole(jnp.copy)(batch["valid"]))
        measured = np.asarray(whole(self._task.reconstruct)(frozen["teacher"], batch["image"]))
        own = state.params.get("quantize", {}).get("embedding")  # A prior has no codebook.
        own = own if own is None else np.asarray(whole(jnp.copy)(own))
        psnr = float(np.mean(measured[valid]))
        check_teacher(psnr, frozen["teacher"], own, self._config.teacher_min_psnr)
        logging.info("the teacher reconstructs a batch of held-out images at %.2f dB", psnr)


def make_evaluation(
    function: Callable[..., Any], mesh: Mesh, rows: NamedSharding
) -> Callable[..., tuple[Any, Bool[Array, "b"]]]:
    """Returns a jitted (state, frozen, batch, key) -> (results, valid [b]).

    Args:
        function: a task's `eval_step` or `sample_step`, whose results have one row per image.
        mesh: the devices to run on.
        rows: the sharding of the batch and of the results.
    """

    def step(state, frozen, batch, key):
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.fold_in(key, EVAL)))
        labels = {"labels": batch["label"]} if "label" in batch else {}
        keys = keys(batch["index"])
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            found = function(on_all_devices(state), frozen, batch["image"], keys, **labels)
        return found, batch["valid"]

    return jax.jit(step, out_shardings=rows)


def _fetch(tree: Any) -> Any:
    """Returns every array in full on every host."""
    return multihost_utils.process_allgather(tree, tiled=True)


def check_batch(task: Task, config: ml_collections.ConfigDict, batch: Mapping[str, Any]) -> None:
    """Checks the labels of a batch on the host, if the task needs labels.

    Args:
        task: the task to train.
        config: the run's config.
        batch: the batch.

    Raises:
        ValueError: if there are no labels, or one is of an unknown class.
    """
    if not task.needs_labels:
        return
    classes, labels = task.classes, batch.get("label")
    if labels is None:
        raise ValueError(
            f"task {config.task!r} is conditioned on {classes} classes, and a batch has no "
            "labels; use a source with labels (synthetic_shapes:SIZE, or a TFDS dataset with "
            f"a feature 'label') or a network without classes ({task.without_classes})"
        )
    least, most = int(np.min(labels)), int(np.max(labels))
    if not 0 <= least <= most < classes:
        raise ValueError(
            f"a batch has the label {least if least < 0 else most}, but the network knows only 0 "
            f"to {classes - 1}; set {task.classes_setting} to the number of classes"
        )
