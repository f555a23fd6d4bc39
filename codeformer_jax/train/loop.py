"""The training loop: evaluate, save, step. It knows tasks by their interface and no network."""

import itertools
import logging
import signal

import ml_collections

from codeformer_jax.system import hosts, storage
from codeformer_jax.system.lock import locked
from codeformer_jax.system.storage import Path
from codeformer_jax.train.goodput import EVALUATION, SAVE
from codeformer_jax.train.run import Run


def train(config: ml_collections.ConfigDict, workdir: str | Path) -> dict[str, float]:
    """Trains the task of `config` in `workdir`, resuming from its newest checkpoint.

    Every process of a distributed run (`hosts.initialize`) calls it with the same arguments.

    Signals keep their default action until the first step is done. After it SIGTERM, SIGHUP,
    SIGUSR1 and Ctrl-C end the run between two steps, with its state saved.

    Args:
        config: a file of `configs/`, or one of your own with the same keys.
        workdir: a folder for everything that the run writes, shared by all processes.

    Returns:
        The metrics of the last evaluation.

    Raises:
        ValueError: if settings do not fit together, or the teacher is not trained.
        Diverged: after `config.max_skipped` steps in a row with a non-finite loss or gradient.
        FileNotFoundError: if a network to start from, weights or images are missing.
        OSError: if another run uses `workdir`, or it cannot be written.
        KeyboardInterrupt: after Ctrl-C, with the state saved.
        SystemExit: after another signal, with the state saved. Its code is 128 plus the signal's
            number, so that a job manager does not take the run for a finished one.
    """
    config, workdir = storage.local_config(config), storage.to_path(workdir, "workdir")
    storage.check_workdir(workdir)
    limited = hosts.limited(config.train.get("watchdog", 0.0))
    with limited, locked(workdir), Run(config, workdir) as run:
        state, scores = run.begin(), {}
        for step in itertools.count(int(state.step)):
            stopped = run.agreed(run.stop.number)
            last = stopped or step >= config.steps
            save = last or step % config.checkpoint_every == 0
            # After a signal only seconds may be left: it only saves.
            evaluate = not stopped and (save or step % config.eval_every == 0)

            if evaluate:
                hosts.at(f"evaluation at step {step}")
                with run.clock.during(EVALUATION, state):
                    scores, panels = run.heldout.evaluate(state, run.frozen)
                    run.writer.eval_metrics(step, scores, panels)
            if save:
                hosts.at(f"save at step {step}")
                with run.clock.during(SAVE, state):
                    run.checkpoints.save(state, scores if evaluate else None)
            if last:
                break

            batch = run.read(step, state)
            state, metrics = run.step(step, state, batch)
            run.stop.listen()
            run.log(step + 1, batch, metrics)
    if stopped:
        logging.warning("interrupted and saved; the same command resumes from step %d", step)
    if stopped == signal.SIGINT:
        raise KeyboardInterrupt
    if stopped:
        raise SystemExit(128 + stopped)
    return scores
