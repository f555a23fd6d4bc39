"""Saving of checkpoints in the background."""

import json
from pathlib import Path

import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from codeformer_jax.checkpoints import digests
from codeformer_jax.checkpoints.workdir import (
    BEST_METRIC,
    BITS,
    UNFINISHED,
    WORST,
    best_metric,
    metric,
)
from codeformer_jax.system import hosts
from codeformer_jax.system.atomic import atomic_path
from codeformer_jax.tasks.state import TrainState


class Checkpoints:
    """The checkpoints of a run: the latest two and the one with the best held-out score are kept.

    The score is the PSNR, or of a prior its bits per dimension. Each checkpoint has the digests of
    its files.

    Args:
        workdir: the run's folder.
    """

    def __init__(self, workdir: Path):
        best = BestN(get_metric_fn=best_metric, n=1, keep_checkpoints_without_metrics=False)
        self._folder = (Path(workdir) / "checkpoints").absolute()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                best_fn=best_metric,  # Without it no metrics are written.
                # If the latest is damaged, the run falls back to the one before.
                preservation_policy=AnyPreservationPolicy([LatestN(2), best]),
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
        metrics = {BEST_METRIC: WORST}
        if scores is not None:
            name = BEST_METRIC if BEST_METRIC in scores else BITS
            metrics = {name: float(scores[name])}
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)
        elif scores is not None:
            self._manager.wait_until_finished()
            if hosts.from_main(lambda: metric(self._folder / str(step)) == WORST):
                self._add_scores(step, metrics)

    def _add_scores(self, step: int, metrics: dict[str, float]) -> None:
        """Adds the scores of a step that a signal saved before its evaluation."""
        if hosts.is_main():
            folder = self._folder / str(step)
            # A process killed before the last line leaves a checkpoint without digests.
            (folder / digests.DIGESTS_FILE).unlink(missing_ok=True)
            with atomic_path(folder / "metrics" / "metrics") as path:
                path.write_text(json.dumps(metrics))
            digests.write(folder)
        hosts.wait_for_all("scores are added")
        self._manager.reload()

    def _write_digests(self) -> None:
        """Runs in the background between the last file of a save and its completion."""
        if hosts.is_main():
            for unfinished in self._folder.glob(f"*{UNFINISHED}*"):
                digests.write(unfinished)

    def check(self) -> None:
        """Raises the error, such as a full disk, of a save that failed in the background."""
        self._manager.check_for_errors()

    def close(self) -> None:
        """Waits for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()
