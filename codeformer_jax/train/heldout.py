"""The held-out images of a run: its scores on them, and its teacher's."""

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator
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
from codeformer_jax.metrics import codebook_usage
from codeformer_jax.ops.devices import on_all_devices
from codeformer_jax.system import parallel
from codeformer_jax.tasks import Task
from codeformer_jax.tasks.protocol import Evaluated
from codeformer_jax.tasks.state import PyTree, TrainState
from codeformer_jax.train.interrupts import compute
from codeformer_jax.train.labels import check_batch
from codeformer_jax.train.speed import Ahead
from codeformer_jax.train.start import check_teacher

# Stream of randomness, folded into the seed; `loop` and `step` have the others.
EVAL = 2


class Heldout:
    """Evaluates on the same images, degraded alike, at every call.

    Args:
        key: of the run.
        names: what of a batch the steps take.

    Attributes:
        source: of the images.
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
        # Where the mesh does not divide a batch, every device computes all of it.
        self._split = config.eval.batch_size % mesh.size == 0
        rows = parallel.batch_sharding(mesh) if self._split else parallel.replicated(mesh)
        self._measure = Ahead(make_evaluation(task.eval_step, mesh, rows))
        # Of the first batch only: what a prior draws takes longer than all its likelihoods.
        samples = config.eval.get("samples")
        self._draw = Ahead(make_evaluation(task.sample_step, mesh, rows)) if samples else None

    def batches(self) -> Iterator[dict[str, jax.Array]]:
        """Held-out batches, the same at every call: what the steps take, 'index' and 'valid'."""
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
        self, state: TrainState, frozen: dict[str, PyTree], interrupted: Callable[[], int]
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Mean scores of all images, and pictures [b, h, w, 3] of the first batch by name.

        Raises:
            Interrupted: where a signal has cut it short.
        """
        results: list[Evaluated] = []
        panels: dict[str, np.ndarray] = {}
        for batch in self.batches():
            arguments = (state, frozen, batch, self._key)
            result, valid = compute(interrupted, self._measure, *arguments)
            if not results:
                panels = dict(result.panels)
                if self._draw:
                    panels |= compute(interrupted, self._draw, *arguments)[0]
                panels = _fetch(dict(sorted(panels.items())))
            result, valid = _fetch((result.replace(panels={}), valid))
            results.append(jax.tree.map(lambda x, valid=valid: x[valid], result))
        scores = {
            name: float(np.mean(np.concatenate([r.metrics[name] for r in results])))
            for name in results[0].metrics
        }
        if self._task.codebook_size is not None:
            codes = np.concatenate([r.indices for r in results]).reshape(-1)
            counts = np.bincount(codes, minlength=self._task.codebook_size)
            usage = codebook_usage(jnp.asarray(counts, jnp.float32))
            scores |= {"perplexity": float(usage.perplexity), "unused_codes": float(usage.dead)}
        return scores, panels

    def check_teacher(
        self, state: TrainState, frozen: dict[str, PyTree], interrupted: Callable[[], int]
    ) -> None:
        """Refuses a teacher that is not fit to teach; see `start.check_teacher`.

        Raises:
            ValueError: for such a teacher.
            Interrupted: where a signal has cut it short.
        """
        if not self._task.needs_teacher:
            return
        batch = next(self.batches())
        whole = partial(jax.jit, out_shardings=parallel.replicated(self._mesh))
        measure = Ahead(whole(self._task.reconstruct))
        valid = np.asarray(whole(jnp.copy)(batch["valid"]))
        own = state.params.get("quantize", {}).get("embedding")  # A prior has no codebook.

        def reconstruct(teacher):
            return np.asarray(compute(interrupted, measure, teacher, batch["image"]))[valid]

        psnr = check_teacher(
            reconstruct,
            frozen["teacher"],
            own if own is None else np.asarray(whole(jnp.copy)(own)),
            self._config.teacher_min_psnr,
        )
        logging.info("the teacher reconstructs a batch of held-out images at %.2f dB", psnr)


def make_evaluation(
    function: Callable[..., Any], mesh: Mesh, rows: NamedSharding
) -> Callable[..., tuple[Any, Bool[Array, "b"]]]:
    """Returns (state, frozen, batch, key) -> (results, which rows count), jitted for `mesh`.

    Args:
        function: `eval_step` or `sample_step` of a task; all its results have a row per image.
        mesh: of the run.
        rows: sharding of the batch, which the results get too.
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
    """Returns the whole of every array, on every host."""
    return multihost_utils.process_allgather(tree, tiled=True)
