"""The loop: evaluate, save, step. It knows tasks by their interface and no network."""

import contextlib
import dataclasses
import itertools
import logging
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import ml_collections

from codeformer_jax.checkpoints.disk import full_disk_explained
from codeformer_jax.checkpoints.recover import move_damaged, read_newest
from codeformer_jax.checkpoints.saving import Checkpoints
from codeformer_jax.checkpoints.workdir import abstract_state, saved_steps
from codeformer_jax.data.pipeline import batches
from codeformer_jax.data.sources import open_source
from codeformer_jax.ops.random import make_key
from codeformer_jax.system import hosts, parallel, paths, process
from codeformer_jax.system.lock import locked
from codeformer_jax.tasks import Task, common, make_task
from codeformer_jax.tasks.state import TrainState
from codeformer_jax.train import provenance
from codeformer_jax.train.heldout import Heldout
from codeformer_jax.train.interrupts import (
    Interrupted,
    compute,
    interrupt_flag,
    unless_interrupted,
)
from codeformer_jax.train.labels import check_batch, check_labels
from codeformer_jax.train.monitor import Monitor, check_deterministic
from codeformer_jax.train.precomputed import with_codes
from codeformer_jax.train.speed import Ahead, TimedStep
from codeformer_jax.train.start import prepare
from codeformer_jax.train.step import make_step
from codeformer_jax.train.trace import parse_steps
from codeformer_jax.train.writer import Writer

# Stream of randomness, folded into the seed; `step` and `heldout` have the others.
INIT = 0


def train(config: ml_collections.ConfigDict, workdir: str | Path) -> dict[str, float]:
    """Trains the task of `config` in `workdir`, going on where an earlier call stopped.

    Of many processes (`hosts.initialize`) each calls it alike; `workdir` is one that all share.

    Returns:
        The metrics of the last evaluation, none where a signal came before it.

    Raises:
        ValueError: for settings that do not fit together, or a teacher that is not fit to teach.
        Diverged: after `config.max_skipped` steps in a row without a finite loss and gradient.
        FileNotFoundError: where a network to start from, weights or images are missing.
        OSError: where another run is at work in `workdir`, or it cannot be written.
        KeyboardInterrupt: after Ctrl-C, once the state, if there is one, is saved. SIGTERM, SIGHUP
            and SIGUSR1 save alike and return.

    Until the first step a process by itself is at work in another thread, which JAX's settings by
    `with` do not reach.
    """
    config, workdir = paths.local_config(config), Path(paths.local(workdir, "workdir"))
    paths.check_workdir(workdir)
    with interrupt_flag() as interrupted, locked(workdir):
        begin = partial(_begin, config, workdir, interrupted)
        # Several processes wait for each other in it: they leave it only where they compile.
        alone = jax.process_count() == 1
        try:
            run, state = unless_interrupted(interrupted, begin) if alone else begin()
        except Interrupted as found:
            steps = saved_steps(workdir)
            saved = f"has its newest checkpoint at step {steps[-1]}" if steps else "has none"
            logging.warning("interrupted before there was a state to save; the run %s", saved)
            _end_by(found.number)
            return {}
        with full_disk_explained(workdir, run.abstract):
            scores = run.train(state, interrupted)
        if run.stopped_by:
            logging.warning("interrupted and saved; the same command goes on from here")
            _end_by(run.stopped_by)
        return scores


def _begin(
    config: ml_collections.ConfigDict, workdir: Path, interrupted: Callable[[], int]
) -> tuple["_Run", TrainState]:
    """A run and the state that it begins or goes on with; nothing is written."""
    run = _Run(config, workdir)
    state = run.restore() if run.start.resuming else run.init(interrupted)
    run.heldout.check_teacher(state, run.frozen, interrupted)
    return run, state


def _end_by(number: int) -> None:
    """Ends what a signal has ended."""
    if process.left_behind():
        hosts.leave()  # Those without such a thread take leave on Python's way out.
    if number == signal.SIGINT:
        raise KeyboardInterrupt


class _Run:
    def __init__(self, config: ml_collections.ConfigDict, workdir: Path):
        self.config, self.workdir = config, workdir
        hosts.check_same(config=config.to_json(), checkpoints=repr(saved_steps(workdir)[-1:]))
        parse_steps(config.train.profile)
        self.task: Task = make_task(config)
        self.mesh = parallel.make_mesh(config.mesh)
        check_deterministic(config, self.mesh.devices.flat[0].platform)
        parallel.check_batch(self.mesh, config)
        replicated = parallel.replicated(self.mesh)
        self.key = jax.jit(partial(make_key, config.seed), out_shardings=replicated)()
        self.source = open_source(config.data, "train")
        # What of a batch the steps take.
        self.names = ("image", "codes", *(("label",) if self.task.needs_labels else ()))
        self.heldout = Heldout(self.task, config, self.mesh, self.key, self.names)
        check_labels(self.task, config, self.source, self.heldout.source)
        self.start = prepare(self.task, config, workdir)
        self.data = provenance.describe(train=self.source, heldout=self.heldout.source)
        if self.start.resuming:
            provenance.check_unchanged(self.data, config, workdir)
        if config.data.get("codes"):
            self.source = with_codes(self.task, config, self.source, self.start.frozen)
        hosts.check_same(data=repr(self.data))
        self.frozen = parallel.put_replicated(self.mesh, self.start.frozen)
        self.abstract = abstract_state(self.task, config)
        self.sharding = parallel.state_sharding(self.mesh, self.abstract)
        self.damaged: dict[int, str] = {}
        self.stopped_by = 0

    def train(self, state: TrainState, interrupted: Callable[[], int]) -> dict[str, float]:
        step = int(state.step)
        move_damaged(self.workdir, self.damaged, step)
        if hosts.is_main():
            provenance.write(self.data, self.workdir)
            self.start.write(self.config, self.workdir)
        with (
            contextlib.closing(Checkpoints(self.workdir, self.task.best_score)) as checkpoints,
            contextlib.closing(self._batches(step)) as loader,
            contextlib.closing(self._monitor(step)) as monitor,
            contextlib.closing(Writer(self.workdir, step, self.config, monitor.read)) as writer,
        ):
            return self._loop(state, step, loader, checkpoints, writer, monitor, interrupted)

    def _loop(
        self, state, start, loader, checkpoints, writer, monitor, interrupted
    ) -> dict[str, float]:
        config, speed, scores = self.config, monitor.speed, {}
        train_step = TimedStep(
            make_step(self.task, self.mesh, self.sharding),
            speed,
            self.mesh.size,
            config.optimizer.accumulate,
            wait=partial(unless_interrupted, interrupted),
        )
        agreed = hosts.Agreement(self.mesh)
        for step in itertools.count(start):
            self.stopped_by = agreed(interrupted())
            finished = step >= config.steps
            due = step % config.checkpoint_every == 0
            evaluated = finished or due or step % config.eval_every == 0
            evaluated = evaluated and not self.stopped_by  # There may be seconds left to save.
            if evaluated:
                try:
                    with speed.away(state):
                        scores, panels = self.heldout.evaluate(state, self.frozen, interrupted)
                        writer.eval_metrics(step, scores, panels)
                except Interrupted as found:
                    evaluated, self.stopped_by = False, found.number
            of_state = scores if evaluated else None
            if finished or due or self.stopped_by:
                with speed.away(state):
                    checkpoints.save(state, of_state)
            if finished or self.stopped_by:
                return scores
            monitor.trace.at(step, state)
            try:
                with speed.waiting():
                    batch = self._read(loader, step, interrupted)
            except Exception:
                if jax.process_count() == 1:  # Of several a save would wait for the others.
                    checkpoints.save(state, of_state)
                raise
            check_batch(self.task, self.config, batch)
            inputs = {name: batch[name] for name in self.names if name in batch}
            inputs = parallel.put_batch(self.mesh, inputs)
            phase = self.task.phase(step)
            try:
                state, metrics = train_step(state, self.frozen, inputs, self.key, phase)
            except Interrupted as found:  # While it was compiled; the state is whole.
                self.stopped_by = found.number
                checkpoints.save(state, of_state)
                return scores
            monitor.watch.take(step + 1, batch)
            writer.train_metrics(step + 1, metrics)
            monitor.watch.check()
            if (step + 1) % config.log_every == 0:
                checkpoints.check()

    def _read(self, loader, step: int, interrupted: Callable[[], int]):
        """The next batch, read in this process where a signal has ended those that read ahead."""
        try:
            return next(loader)
        except Exception:
            if not interrupted():
                raise
            with contextlib.closing(self._batches(step, workers=0)) as here:
                return next(here)

    def _monitor(self, step: int) -> Monitor:
        codes = None if self.task.needs_teacher else self.task.codebook_size
        return Monitor(self.config, self.workdir, step, self.mesh.devices.flat, codes)

    def _batches(self, start: int, workers: int | None = None):
        data = self.config.data
        return batches(
            self.source,
            batch_size=data.batch_size,
            seed=self.config.seed,
            start_step=start,
            flip=data.flip,
            workers=data.workers if workers is None else workers,
            host=jax.process_index(),
            hosts=jax.process_count(),
        )

    def restore(self) -> TrainState:
        abstract = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            self.abstract,
            self.sharding,
        )
        state, self.damaged = read_newest(self.workdir, abstract)
        logging.info("going on from step %d of %d", int(state.step), self.config.steps)
        return state

    def init(self, interrupted: Callable[[], int]) -> TrainState:
        # No worker processes for one batch: they take longer to start.
        with contextlib.closing(self._batches(0, workers=0)) as loader:
            images = parallel.put_batch(self.mesh, next(loader)["image"])
        # What a workdir was restored to lives on one device; here it has to be on all.
        given = (self.start.previous, self.start.discriminator)
        previous, discriminator = parallel.put_replicated(self.mesh, given)
        self.start = dataclasses.replace(self.start, previous=None, discriminator=None)

        def first_state(key, images, previous, discriminator):
            state = self.task.init(key, images, previous)
            return common.start_discriminator(state, discriminator)

        init = Ahead(jax.jit(first_state, out_shardings=self.sharding))
        key = common.weak_keys(self.config, jax.random.fold_in(self.key, INIT))
        return compute(interrupted, init, key, images, previous, discriminator)
