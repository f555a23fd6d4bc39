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
from jax.sharding import Mesh
from jaxtyping import Array, Key

from codeformer_jax.data.pipeline import evaluation_batches
from codeformer_jax.data.sources import open_heldout
from codeformer_jax.metrics import codebook_usage
from codeformer_jax.tasks import Task
from codeformer_jax.tasks.common import Evaluated
from codeformer_jax.tasks.state import PyTree, TrainState
from codeformer_jax.train import parallel
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
        self._measure = self._compiled_later(task.eval_step)
        # Of the first batch only: what a prior draws takes longer than all its likelihoods.
        self._draw = self._compiled_later(task.sample_step) if config.eval.get("samples") else None

    def batches(self) -> Iterator[dict[str, jax.Array]]:
        """Held-out batches, the same at every call: what the steps take, 'index' and 'valid'."""
        size = self._config.eval.batch_size
        # Where the mesh does not divide a batch, every device computes all of it.
        split = size % self._mesh.size == 0
        loader = evaluation_batches(
            self.source,
            batch_size=size,
            host=jax.process_index() if split else 0,
            hosts=jax.process_count() if split else 1,
        )
        put = parallel.put_batch if split else parallel.put_replicated
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
                panels = jax.device_get(dict(sorted(panels.items())))
            result, valid = jax.device_get((result.replace(panels={}), valid))
            results.append(jax.tree.map(lambda x, valid=valid: x[valid], result))
        scores = {
            name: float(np.mean(np.concatenate([r.metrics[name] for r in results])))
            for name in results[0].metrics
        }
        codes = np.concatenate([r.indices for r in results]).reshape(-1)
        counts = np.bincount(codes, minlength=state.code_usage.shape[0])
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

    def _compiled_later(self, function: Callable[..., Any]) -> Ahead:
        """`function` of a batch, and which rows of it count, the whole on every host."""

        def step(state, frozen, batch, key):
            keys = jax.vmap(partial(jax.random.fold_in, jax.random.fold_in(key, EVAL)))
            labels = {"labels": batch["label"]} if "label" in batch else {}
            keys = keys(batch["index"])
            found = function(state, frozen, batch["image"], keys, **labels)
            return found, batch["valid"]

        return Ahead(jax.jit(step, out_shardings=parallel.replicated(self._mesh)))
