"""The loop: evaluate, save, step. It knows tasks by their interface and no network."""

import contextlib
import dataclasses
import itertools
import logging
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from codeformer_jax.data.pipeline import batches, evaluation_batches
from codeformer_jax.data.sources import open_heldout, open_source
from codeformer_jax.metrics import codebook_usage
from codeformer_jax.tasks import Task, make_task
from codeformer_jax.tasks.common import Evaluated
from codeformer_jax.tasks.state import TrainState
from codeformer_jax.train import parallel, provenance
from codeformer_jax.train.checkpoint import Checkpoints, abstract_state
from codeformer_jax.train.codes import with_codes
from codeformer_jax.train.start import check_teacher, prepare
from codeformer_jax.train.step import make_step
from codeformer_jax.train.writer import Writer

# Streams of randomness, folded into the seed; `step` has the third.
INIT, EVAL = 0, 2


def train(config: ml_collections.ConfigDict, workdir: str | Path) -> dict[str, float]:
    """Trains the task of `config` in `workdir`, going on where an earlier call stopped.

    Returns:
        The metrics of the last evaluation.

    Raises:
        ValueError: for settings that do not fit together, or a teacher that is not fit to teach.
        FileNotFoundError: where a network to start from, weights or images are missing.
        KeyboardInterrupt: after Ctrl-C, once the state is saved; SIGTERM saves and returns.
    """
    return _Run(config, Path(workdir)).run()


class _Run:
    def __init__(self, config: ml_collections.ConfigDict, workdir: Path):
        self.config, self.workdir = config, workdir
        self.mesh = parallel.make_mesh(config.mesh)
        self.task: Task = make_task(config)
        parallel.check_batch(self.mesh, config)
        self.key = jax.random.key(config.seed)
        self.source = open_source(config.data, "train")
        self.eval_source = open_heldout(config)
        self.start = prepare(self.task, config, workdir)
        self.data = provenance.describe(train=self.source, heldout=self.eval_source)
        if self.start.resuming:
            provenance.check_unchanged(self.data, config, workdir)
        if config.data.get("codes"):
            self.source = with_codes(self.task, config, self.source, self.start.frozen)
        self.frozen = jax.device_put(self.start.frozen, parallel.replicated(self.mesh))
        self.abstract = abstract_state(self.task, config)
        self.sharding = parallel.state_sharding(self.mesh, self.abstract)
        self.eval_step = jax.jit(self.task.eval_step)

    def run(self) -> dict[str, float]:
        # Until the teacher has been checked nothing is written.
        state = self._restore() if self.start.resuming else self._init()
        self._check_teacher(state)
        provenance.write(self.data, self.workdir)
        self.start.write(self.config, self.workdir)
        step = int(state.step)
        with (
            _interrupt_flag() as interrupted,
            contextlib.closing(Checkpoints(self.workdir)) as checkpoints,
            contextlib.closing(self._batches(step)) as loader,
            contextlib.closing(Writer(self.workdir, step, self.config)) as writer,
        ):
            scores = self._loop(state, step, loader, checkpoints, writer, interrupted)
        if interrupted():
            logging.warning("interrupted and saved; the same command goes on from here")
            if interrupted() == signal.SIGINT:
                raise KeyboardInterrupt
        return scores

    def _loop(self, state, start, loader, checkpoints, writer, interrupted) -> dict[str, float]:
        config, scores = self.config, {}
        train_step = make_step(self.task, self.mesh, self.sharding)
        for step in itertools.count(start):
            finished = step >= config.steps
            due = step % config.checkpoint_every == 0
            evaluated = finished or due or step % config.eval_every == 0
            if evaluated:
                scores = self._evaluate(state, step, writer)
            if finished or due or interrupted():
                checkpoints.save(state, scores if evaluated else None)
            if finished or interrupted():
                return scores
            try:
                batch = next(loader)
            except Exception:
                checkpoints.save(state, scores if evaluated else None)
                raise
            inputs = {name: batch[name] for name in ("image", "codes") if name in batch}
            inputs = jax.device_put(inputs, parallel.batch_sharding(self.mesh))
            phase = self.task.phase(step)
            state, metrics = train_step(state, self.frozen, inputs, self.key, phase)
            writer.train_metrics(step + 1, metrics)

    def _batches(self, start: int):
        data = self.config.data
        return batches(
            self.source,
            batch_size=data.batch_size,
            seed=self.config.seed,
            start_step=start,
            flip=data.flip,
            workers=data.workers,
        )

    def _restore(self) -> TrainState:
        abstract = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            self.abstract,
            self.sharding,
        )
        with contextlib.closing(Checkpoints(self.workdir)) as checkpoints:
            state = checkpoints.restore(abstract)
        logging.info("going on from step %d of %d", int(state.step), self.config.steps)
        return state

    def _init(self) -> TrainState:
        with contextlib.closing(self._batches(0)) as loader:
            images = next(loader)["image"]
        # What a workdir was restored to lives on one device; here it has to be on all.
        previous = jax.device_put(self.start.previous, parallel.replicated(self.mesh))
        init = jax.jit(self.task.init, out_shardings=self.sharding)
        self.start = dataclasses.replace(self.start, previous=None)
        return init(jax.random.fold_in(self.key, INIT), images, previous)

    def _eval_batches(self) -> Iterator[tuple[dict[str, np.ndarray], jax.Array]]:
        """Held-out batches, the same at every call, with one key per image."""
        key = jax.random.fold_in(self.key, EVAL)
        loader = evaluation_batches(self.eval_source, batch_size=self.config.eval.batch_size)
        with contextlib.closing(loader):
            for batch in itertools.islice(loader, self.config.eval.batches):
                index = jnp.asarray(batch["index"])
                yield batch, jax.vmap(partial(jax.random.fold_in, key))(index)

    def _check_teacher(self, state: TrainState) -> None:
        if not self.task.needs_teacher:
            return
        batch, _ = next(self._eval_batches())
        reconstruct = jax.jit(self.task.reconstruct)
        psnr = check_teacher(
            lambda teacher: reconstruct(teacher, batch["image"])[batch["valid"]],
            self.frozen["teacher"],
            np.asarray(state.params["quantize"]["embedding"]),
            self.config.teacher_min_psnr,
        )
        logging.info("the teacher reconstructs held-out images at %.2f dB", psnr)

    def _evaluate(self, state: TrainState, step: int, writer: Writer) -> dict[str, float]:
        results: list[Evaluated] = []
        panels = {}
        for batch, keys in self._eval_batches():
            result = self.eval_step(state, self.frozen, batch["image"], keys)
            panels = panels or jax.device_get(result.panels)
            result = jax.device_get(result.replace(panels={}))
            results.append(jax.tree.map(lambda x, valid=batch["valid"]: x[valid], result))
        scores = {
            name: float(np.mean(np.concatenate([r.metrics[name] for r in results])))
            for name in results[0].metrics
        }
        codes = np.concatenate([r.indices for r in results]).reshape(-1)
        counts = np.bincount(codes, minlength=state.code_usage.shape[0])
        usage = codebook_usage(jnp.asarray(counts, jnp.float32))
        scores |= {"perplexity": float(usage.perplexity), "unused_codes": float(usage.dead)}
        writer.eval_metrics(step, scores, panels)
        return scores


@contextlib.contextmanager
def _interrupt_flag() -> Iterator[Callable[[], int]]:
    """A flag, the signal's number, that SIGTERM or Ctrl-C raises: the loop saves before it ends.

    A second Ctrl-C ends at once. Outside the main thread signals are left alone.
    """
    raised = []
    previous = {}

    def handle(number, _frame):
        if raised and number == signal.SIGINT:
            raise KeyboardInterrupt
        raised.append(number)

    with contextlib.suppress(ValueError):
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, handle)
    try:
        yield lambda: raised[0] if raised else 0
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
