"""Saving of checkpoints in the background, with a clear error for a full disk."""

import contextlib
import errno
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from functools import partial

import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from codeformer_jax.checkpoints import digests
from codeformer_jax.checkpoints.workdir import (
    UNSCORED,
    rank,
    saved_steps,
    stored_rank,
    unfinished_saves,
)
from codeformer_jax.system import hosts, storage
from codeformer_jax.system.atomic import atomic_path
from codeformer_jax.system.storage import Path
from codeformer_jax.tasks import BestScore
from codeformer_jax.tasks.state import TrainState

_FULL = {errno.ENOSPC: "No space left on device", errno.EDQUOT: "Disk quota exceeded"}


class Checkpoints:
    """The checkpoints of a run: the latest two and the one with the best held-out score are kept.

    Each checkpoint has the digests of its files.

    Args:
        workdir: the run's folder.
        best: the score that decides, or None to keep only the latest.
        before_commit: called in the background before a save counts as complete.
    """

    def __init__(
        self,
        workdir: Path,
        best: BestScore | None = None,
        before_commit: Callable[[], None] = lambda: None,
    ):
        self._workdir, self._before_commit = workdir, before_commit
        self._best, ranked, kept = best, None, [LatestN(2)]
        if best is not None:
            ranked = partial(rank, best=best)
            kept.append(BestN(get_metric_fn=ranked, n=1, keep_checkpoints_without_metrics=False))
        self._folder = storage.absolute(workdir / "checkpoints")
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                best_fn=ranked,  # Without it no metrics are written.
                # If the latest is damaged, the run falls back to the one before.
                preservation_policy=AnyPreservationPolicy(kept),
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_digests),
            ),
        )

    def save(self, state: TrainState, scores: dict[str, float] | None) -> None:
        """Saves in the background. A step that is already saved only gets its missing scores.

        Args:
            state: the state to save.
            scores: its held-out scores, or None if it was not evaluated. Such a checkpoint can be
                the latest but not the best.
        """
        step = int(state.step)
        metrics = self._stored(scores)
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)
        elif scores is not None and metrics is not None:
            self._manager.wait_until_finished()
            if hosts.from_main("lookup of scores", lambda: self._is_unscored(step)):
                self._add_scores(step, metrics)

    def _stored(self, scores: dict[str, float] | None) -> dict[str, float] | None:
        """Returns what is stored of the scores: the one that decides."""
        if self._best is None:
            return None
        value = UNSCORED if scores is None else self._best.rank(scores)
        return {self._best.name: -value if self._best.smallest else value}

    def _is_unscored(self, step: int) -> bool:
        return stored_rank(self._folder / str(step), self._best) == UNSCORED

    def _add_scores(self, step: int, metrics: dict[str, float]) -> None:
        """Adds the scores of a step that a signal saved before its evaluation."""
        if hosts.is_main():
            folder = self._folder / str(step)
            # A process killed before the last line leaves a checkpoint without digests.
            (folder / digests.DIGESTS_FILE).unlink(missing_ok=True)
            with atomic_path(folder / "metrics" / "metrics") as path:
                path.write_text(json.dumps(metrics))
            digests.write(folder)
        hosts.wait_for_all("adding of scores")
        self._manager.reload()

    def _write_digests(self) -> None:
        """Runs in the background between the last file of a save and its completion."""
        self._before_commit()
        if hosts.is_main():
            for unfinished in unfinished_saves(self._workdir):
                digests.write(unfinished)

    def check(self) -> None:
        """Raises the error, such as a full disk, of a save that failed in the background."""
        self._manager.check_for_errors()

    def close(self) -> None:
        """Waits for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()


@contextlib.contextmanager
def full_disk_explained(workdir: Path) -> Iterator[None]:
    """Turns an error that a full disk causes into one that says what to do.

    It removes what the failed save has written. Earlier checkpoints stay as they are. If the
    workdir is in a bucket, errors pass unchanged.

    Raises:
        OSError: with errno ENOSPC or EDQUOT.
    """
    # Orbax writes hundreds of arrays at once, and asyncio would log an error for each.
    logging.getLogger("asyncio").addFilter(_is_news)
    try:
        yield
    except Exception as error:
        number = _full(error)
        if number is None or storage.is_remote(workdir):
            raise
        for unfinished in unfinished_saves(workdir):
            shutil.rmtree(unfinished, ignore_errors=True)
        steps = saved_steps(workdir)
        outlook = f"resumes from step {steps[-1]}" if steps else "starts again"
        raise OSError(
            number,
            f"{_FULL[number]}: '{workdir}' has {shutil.disk_usage(workdir).free:,} bytes free. "
            f"Complete checkpoints are intact: {steps}. Make room there or, if there is enough, in "
            f"/dev/shm, the temporary folder or the quota; then the same command {outlook}",
        ) from error


def _is_news(record: logging.LogRecord) -> bool:
    return "exception was never retrieved" not in record.getMessage()


def _full(error: BaseException | None) -> int | None:
    """Returns the error number of a full disk if that is what caused `error`."""
    while error is not None:
        for number, words in _FULL.items():
            # TensorStore raises a ValueError with the words of the system.
            if getattr(error, "errno", None) == number or words in str(error):
                return number
        error = error.__cause__ or error.__context__
    return None
