"""Everything that the training loop uses, made from a config."""

import contextlib
import dataclasses
import logging
from functools import partial
from typing import Any

import jax
import ml_collections

from codeformer_jax.checkpoints.recover import move_damaged, read_newest
from codeformer_jax.checkpoints.saving import Checkpoints, full_disk_explained
from codeformer_jax.checkpoints.workdir import abstract_state, saved_steps
from codeformer_jax.data.pipeline import batches
from codeformer_jax.data.sources import open_source
from codeformer_jax.data.views import Jitter, oversampled
from codeformer_jax.system import hosts, parallel
from codeformer_jax.system.keys import make_key
from codeformer_jax.system.mirror import Mirror
from codeformer_jax.system.signals import StopSignal
from codeformer_jax.system.storage import Path
from codeformer_jax.tasks import Task, common, make_task
from codeformer_jax.tasks.state import TrainState
from codeformer_jax.train import provenance
from codeformer_jax.train.goodput import RESTORE, SAVE, STEP, Clock, Goodput
from codeformer_jax.train.heldout import Heldout, check_batch
from codeformer_jax.train.monitor import Monitor, check_deterministic, parse_steps
from codeformer_jax.train.speed import TimedStep
from codeformer_jax.train.start import prepare, with_codes
from codeformer_jax.train.step import make_step
from codeformer_jax.train.writer import Writer

# Stream of randomness, folded into the seed; `step` and `heldout` have the others.
INIT = 0
_KILLED = (
    "data.workers: a worker was killed. The system does so when memory is short: look at its log, "
    "and use fewer workers. The same command resumes from the last checkpoint"
)


class Run:
    """The parts of a run. The constructor reads and checks; `begin` is the first to write.

    Used in a `with` statement, which closes everything and explains a full disk.

    Attributes:
        task, mesh, frozen: the task, its devices, and the variables of its frozen networks.
        heldout: evaluates on the held-out images.
        stop: the flag that signals raise; `agreed` gives all processes the same one.
        clock: adds up the time of each kind.
        checkpoints, writer: set by `begin`.
    """

    def __init__(self, config: ml_collections.ConfigDict, workdir: Path):
        self.clock = Clock()
        self.config, self.workdir = config, workdir
        hosts.check_same(config=config.to_json(), checkpoints=repr(saved_steps(workdir)[-1:]))
        hosts.at("opening of the data")
        parse_steps(config.train.profile)
        self.task: Task = make_task(config)
        self.mesh = parallel.make_mesh(config.mesh)
        check_deterministic(config, self.mesh.devices.flat[0].platform)
        parallel.check_batch(self.mesh, config)
        replicated = parallel.replicated(self.mesh)
        self.key = jax.jit(partial(make_key, config.seed), out_shardings=replicated)()
        self._open_data()
        self.frozen = parallel.put_replicated(self.mesh, self.start.frozen)
        self.abstract = abstract_state(self.task, config)
        self.sharding = parallel.state_sharding(self.mesh, self.abstract)
        self.stop, self.agreed = StopSignal(), hosts.Agreement(self.mesh)
        self._stack = contextlib.ExitStack()

    def _open_data(self) -> None:
        config = self.config
        self._inputs = ("image", "codes", *(("label",) if self.task.needs_labels else ()))
        self.source = open_source(oversampled(config.data), "train")
        self.heldout = Heldout(self.task, config, self.mesh, self.key, self._inputs)
        self.start = prepare(self.task, config, self.workdir)
        self.data = provenance.describe(train=self.source, heldout=self.heldout.source)
        if self.start.resuming:
            provenance.check_unchanged(self.data, config, self.workdir)
        if config.data.get("codes"):
            self.source = with_codes(self.task, config, self.source, self.start.frozen)
        hosts.check_same(data=repr(self.data))
        hosts.at("start of the state")

    def __enter__(self) -> "Run":
        self._stack.enter_context(full_disk_explained(self.workdir))
        self._stack.enter_context(self.stop)
        return self

    def __exit__(self, *error: Any) -> bool | None:
        self.clock.turn_to(SAVE)  # The last one is waited for.
        return self._stack.__exit__(*error)

    def begin(self) -> TrainState:
        """Returns the first or the restored state, and opens what the run writes to."""
        state, damaged = self.restore() if self.start.resuming else (self.init(), {})
        self.heldout.check_teacher(state, self.frozen)
        step = int(state.step)
        move_damaged(self.workdir, damaged, step)
        if hosts.is_main():
            provenance.write(self.data, self.workdir)
            self.start.write(self.config, self.workdir)
        codes = None if self.task.needs_teacher else self.task.codebook_size
        devices = self.mesh.devices.flat

        mirror = self._closing(Mirror(self.workdir))
        # Opened before the other parts, so that it sees an error in their end.
        goodput = Goodput(self.clock, mirror, step, self.config.steps)
        self._goodput = self._stack.enter_context(goodput)
        self.checkpoints = self._closing(
            Checkpoints(self.workdir, self.task.best_score, mirror.push)
        )
        self._loader = self._closing(self._batches(step))
        monitor = Monitor(self.config, mirror, step, devices, codes, self.clock)
        self._monitor = self._closing(monitor)
        self.writer = self._closing(Writer(mirror, step, self.config, self._monitor.read))
        self._train_step = TimedStep(
            make_step(self.task, self.mesh, self.sharding),
            self._monitor.speed,
            self.mesh.size,
            self.config.optimizer.accumulate,
        )
        mirror.push()  # A kill from now on leaves this start's line.
        self.clock.turn_to(STEP)
        return state

    def restore(self) -> tuple[TrainState, dict[str, str]]:
        """Returns the newest state and the faults of damaged checkpoints, by step."""
        abstract = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            self.abstract,
            self.sharding,
        )
        with self.clock.during(RESTORE):
            state, damaged = read_newest(self.workdir, abstract)
        logging.info("resuming from step %d of %d", int(state.step), self.config.steps)
        return state, damaged

    def init(self) -> TrainState:
        """Returns the first state, from the run's key and the networks that it starts from."""
        # One batch is read faster than worker processes start.
        with contextlib.closing(self._batches(0, workers=0)) as loader:
            batch = next(loader)
        check_batch(self.task, self.config, batch)
        images = parallel.put_batch(self.mesh, batch["image"])
        given = (self.start.previous, self.start.discriminator)
        previous, discriminator = parallel.put_replicated(self.mesh, given)
        self.start = dataclasses.replace(self.start, previous=None, discriminator=None)

        def first_state(key, images, previous, discriminator):
            state = self.task.init(key, images, previous)
            return common.start_discriminator(state, discriminator)

        key = common.weak_keys(self.config, jax.random.fold_in(self.key, INIT))
        init = jax.jit(first_state, out_shardings=self.sharding)
        return init(key, images, previous, discriminator)

    def read(self, step: int, state: TrainState) -> dict[str, Any]:
        """Reads a batch.

        Args:
            step: its step.
            state: saved if reading fails, unless several processes would have to save together.

        Returns:
            The batch on the host.
        """
        hosts.at(f"reading of batch {step}")
        try:
            with self._monitor.speed.waiting():
                batch = self._next(step)
        except Exception:
            if jax.process_count() == 1:
                self.checkpoints.save(state, None)
            raise
        check_batch(self.task, self.config, batch)
        return batch

    def _next(self, step: int) -> dict[str, Any]:
        try:
            return next(self._loader)
        except Exception as error:
            if not self.stop.number:
                if "Worker process was terminated" in str(error):  # Grain's words.
                    raise ChildProcessError(_KILLED) from error
                raise
            # The signal went to the whole process group and ended the workers.
            with contextlib.closing(self._batches(step, workers=0)) as here:
                return next(here)

    def step(
        self, step: int, state: TrainState, batch: dict[str, Any]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Takes a training step.

        Args:
            step: its number, from 0.
            state: the state, which is donated.
            batch: the batch of the step.

        Returns:
            The next state and the metrics, on the device.
        """
        hosts.at(f"step {step}")
        inputs = {name: batch[name] for name in self._inputs if name in batch}
        inputs = parallel.put_batch(self.mesh, inputs)
        self._monitor.trace.at(step, state)
        return self._train_step(state, self.frozen, inputs, self.key, self.task.phase(step))

    def log(self, step: int, batch: dict[str, Any], metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of a step without waiting for it.

        Args:
            step: number of steps taken.
            batch: the step's batch.
            metrics: its metrics, on the device.

        Raises:
            Diverged: if too many steps in a row were skipped.
        """
        self._monitor.watch.take(step, batch)
        self.writer.train_metrics(step, metrics)
        self._monitor.watch.check()
        self._goodput.at(step)
        if step % self.config.log_every == 0:
            self.checkpoints.check()

    def _closing(self, part: Any) -> Any:
        return self._stack.enter_context(contextlib.closing(part))

    def _batches(self, start: int, workers: int | None = None) -> Any:
        data = self.config.data
        return batches(
            self.source,
            batch_size=data.batch_size,
            seed=self.config.seed,
            start_step=start,
            jitter=Jitter.from_config(data),
            workers=data.workers if workers is None else workers,
            host=jax.process_index(),
            hosts=jax.process_count(),
        )
