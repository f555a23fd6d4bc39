"""The loop: evaluate, save, step. It knows tasks by their interface and no network."""

import contextlib
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

from codeformer_jax.data.pipeline import batches, evaluation_batches, open_source
from codeformer_jax.nn.quantizer import code_perplexity
from codeformer_jax.tasks import Task, make_task
from codeformer_jax.tasks.common import Evaluated
from codeformer_jax.tasks.state import TrainState
from codeformer_jax.train import parallel
from codeformer_jax.train.checkpoint import Checkpoints, abstract_state
from codeformer_jax.train.start import check_teacher, prepare
from codeformer_jax.train.writer import Writer

# Streams of randomness, folded into the seed.
INIT, STEP, EVAL = range(3)


def train(config: ml_collections.ConfigDict, workdir: str | Path) -> dict[str, float]:
    """Trains the task of `config` in `workdir`, going on where an earlier call stopped.

    Returns:
        The metrics of the last evaluation.

    Raises:
        ValueError: for settings that do not fit together, or a teacher that is not fit to teach.
        FileNotFoundError: where a network to start from, weights or images are missing.
    """
    return _Run(config, Path(workdir)).run()


class _Run:
    def __init__(self, config: ml_collections.ConfigDict, workdir: Path):
        self.config, self.workdir = config, workdir
        self.mesh = parallel.make_mesh(config.mesh)
        self.task: Task = make_task(config)
        self.key = jax.random.key(config.seed)
        self.source = open_source(config.data, "train")
        self.eval_source = open_source(config.data, "heldout")
        self.start = prepare(self.task, config, workdir)
        self.frozen = jax.device_put(self.start.frozen, parallel.replicated(self.mesh))
        self.abstract = abstract_state(self.task, config)
        self.sharding = parallel.state_sharding(self.mesh, self.abstract)
        self.eval_step = jax.jit(self.task.eval_step)

    def run(self) -> dict[str, float]:
        config = self.config
        checkpoints = Checkpoints(self.workdir)
        state, scores = self._restore_or_init(checkpoints)
        start = int(state.step)
        self._check_teacher(state)
        self.start.write(config, self.workdir)
        loader = batches(
            self.source,
            batch_size=config.data.batch_size,
            seed=config.seed,
            start_step=start,
            flip=config.data.flip,
            workers=config.data.workers,
        )
        with (
            contextlib.closing(checkpoints),
            contextlib.closing(loader),
            contextlib.closing(Writer(self.workdir, start, config)) as writer,
            _interrupt_flag() as interrupted,
        ):
            train_step = self._compile()
            for step in itertools.count(start):
                last = step >= config.steps or interrupted()
                if step % config.eval_every == 0 or step >= config.steps:
                    scores = self._evaluate(state, step, writer)
                if step % config.checkpoint_every == 0 or last:
                    checkpoints.save(state, scores)
                if last:
                    break
                images = jax.device_put(next(loader)["image"], parallel.batch_sharding(self.mesh))
                state, metrics = train_step(
                    state, self.frozen, images, self.key, self.task.phase(step)
                )
                writer.train_metrics(step + 1, metrics)
            if interrupted():
                logging.warning("interrupted: saved at step %d; the same command goes on", step)
        return scores

    def _compile(self):
        """The donated, sharded step; it has one compiled variant per static part of a phase."""

        def step(state, frozen, images, key, phase):
            key = jax.random.fold_in(jax.random.fold_in(key, STEP), state.step)
            return self.task.train_step(state, frozen, images, key, phase)

        return jax.jit(
            step,
            donate_argnums=0,
            out_shardings=(self.sharding, parallel.replicated(self.mesh)),
        )

    def _restore_or_init(self, checkpoints: Checkpoints) -> tuple[TrainState, dict[str, float]]:
        latest = checkpoints.latest_step()
        if latest is not None:
            abstract = jax.tree.map(
                lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                self.abstract,
                self.sharding,
            )
            logging.info("resuming at step %d of %d", latest, self.config.steps)
            return checkpoints.restore(abstract), checkpoints.metrics(latest)
        first = next(
            batches(self.source, batch_size=self.config.data.batch_size, seed=self.config.seed)
        )
        init = jax.jit(self.task.init, out_shardings=self.sharding)
        key = jax.random.fold_in(self.key, INIT)
        return init(key, first["image"], self.start.previous), {}

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
        valid = []
        for batch, keys in self._eval_batches():
            result = self.eval_step(state, self.frozen, batch["image"], keys)
            results.append(jax.device_get(result))
            valid.append(batch["valid"])
        valid = np.concatenate(valid)
        counts = sum(r.code_counts for r in results)
        scores = {
            name: float(np.mean(np.concatenate([r.metrics[name] for r in results])[valid]))
            for name in results[0].metrics
        }
        scores["perplexity"] = float(code_perplexity(jnp.asarray(counts)))
        scores["unused_codes"] = float(np.sum(counts == 0))
        writer.eval_metrics(step, scores, results[0].panels)
        return scores


@contextlib.contextmanager
def _interrupt_flag() -> Iterator[Callable[[], bool]]:
    """A flag that SIGTERM or Ctrl-C raises, so that the loop saves before it ends.

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
        yield lambda: bool(raised)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
