"""Host side of an evaluation: keeps the scores of all images and the pictures of a few."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from codeformer_jax.evaluate.evaluation import Evaluation, Pictures
from codeformer_jax.metrics import METRICS

_WORST, _FIRST, _BEST = 8, 8, 4


class Collector:
    """Collector of the batches of `measure`, in order, for an `Evaluation`.

    Args:
        rows: names of the rows, see `Evaluation.scores`.
        metrics: names of the metrics that `measure` computes.
        codebook_size: number of codes K; None for a network without codes.
    """

    def __init__(self, rows: Sequence[str], metrics: Sequence[str], codebook_size: int | None):
        self._rows = tuple(rows)
        self._metrics = [name for name in metrics if METRICS[name].of_pictures]
        per_image = (name for name in self._metrics if METRICS[name].reduce is None)
        self._ranking = next(per_image, None)
        self._codebook_size = codebook_size
        self._names: list[str] = []
        self._indices: list[int] = []
        self._scores: list[dict[str, np.ndarray]] = []
        self._codes: list[dict[str, np.ndarray]] = []
        self._counts: dict[str, np.ndarray] = {}
        self._kept: dict[int, tuple[float, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self._names)

    def add(self, names: Sequence[str], indices: np.ndarray, measured: Mapping[str, Any]):
        """Adds a batch.

        Args:
            names: names of the images [n].
            indices: places of the images in the source [b].
            measured: result of `measure` for b >= n images, of which the last are padding.

        Raises:
            ValueError: the network's output is not finite.
        """
        valid = len(names)
        result = jax.tree.map(np.asarray, dict(measured))
        finite = result["finite"][:valid]
        if not finite.all():
            raise ValueError(
                f"the network's output for '{names[int(np.argmin(finite))]}' is not finite: the "
                "weights are broken or training diverged; evaluate an earlier checkpoint"
            )
        scores = {name: s[:, :valid].astype(np.float64) for name, s in result["scores"].items()}
        self._keep_pictures(scores, result["pictures"][:, :valid])
        self._names += names
        self._indices += [int(index) for index in indices[:valid]]
        self._scores.append(scores)
        codes = result["code_scores"].items()
        self._codes.append({name: values[:valid].astype(np.float64) for name, values in codes})
        taught = "target_codes" in result
        if taught:
            self._count("teacher", result["target_codes"][:valid])
        if self._codebook_size is not None:
            self._count("predicted" if taught else "network", result["codes"][:valid])

    def finish(self, settings: Mapping[str, Any]) -> Evaluation:
        """Returns the evaluation of everything added so far."""
        scores = {
            row: {name: self._of_set(name, i) for name in self._metrics}
            for i, row in enumerate(self._rows)
        }
        return Evaluation(
            names=tuple(self._names),
            indices=tuple(self._indices),
            scores=scores,
            codes={name: np.concatenate([c[name] for c in self._codes]) for name in self._codes[0]},
            code_counts=dict(self._counts),
            settings=dict(settings),
            pictures=self._pictures(),
        )

    def _of_set(self, name: str, row: int) -> np.ndarray:
        values = np.concatenate([batch[name][row] for batch in self._scores])
        reduce = METRICS[name].reduce
        return values if reduce is None else np.asarray(reduce(values), np.float64)

    def _count(self, whose: str, codes: np.ndarray):
        counts = np.bincount(codes.reshape(-1), minlength=self._codebook_size)
        self._counts[whose] = self._counts.get(whose, 0) + counts

    def _keep_pictures(self, scores: Mapping[str, np.ndarray], pictures: np.ndarray):
        merit = np.zeros(pictures.shape[1])
        if self._ranking is not None:
            values = scores[self._ranking]
            start = values[0] if "input" in self._rows else 0.0
            last = max(i for i, row in enumerate(self._rows) if row != "teacher")
            merit = METRICS[self._ranking].gain(values[last], start)
        for i in range(pictures.shape[1]):
            self._kept[len(self) + i] = (float(merit[i]), pictures[:, i].copy())
        chosen = {image for group in self._groups().values() for image in group}
        self._kept = {image: kept for image, kept in self._kept.items() if image in chosen}

    def _groups(self) -> dict[str, list[int]]:
        """Returns the images of each group; an image that left every group never returns to one."""
        by_merit = sorted(self._kept, key=lambda image: (self._kept[image][0], image))
        return {
            "worst": by_merit[:_WORST],
            "first": sorted(self._kept)[:_FIRST],
            "best": by_merit[::-1][:_BEST],
        }

    def _pictures(self) -> tuple[Pictures, ...]:
        shown, result = set(), []
        for group, images in self._groups().items():
            for image in images:
                if image not in shown:
                    pictures = self._kept[image][1]
                    labelled = dict(zip((*self._rows, "truth"), pictures, strict=True))
                    result.append(Pictures(group, image, labelled))
            shown.update(images)
        return tuple(result)
