"""Gathers measured batches on the host: all scores, but the pictures of a few images only."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from codeformer_jax.evaluate.evaluation import METRICS, Evaluation, Pictures

_WORST, _FIRST, _BEST = 8, 8, 4


class Collector:
    """Takes batches of `measure` in order and ends in an `Evaluation`."""

    def __init__(self, rows: Sequence[str], codebook_size: int | None):
        self._rows = tuple(rows)
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
        """Takes a batch's first `len(names)` images; the others are padding.

        Raises ValueError where the network's output is not finite.
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
        self._keep_pictures(len(self), scores["psnr"], result["pictures"][:, :valid])
        self._names += names
        self._indices += [int(index) for index in indices[:valid]]
        self._scores.append(scores)
        taught = "target_codes" in result
        if taught:
            self._count("teacher", result["target_codes"][:valid])
        if self._codebook_size is not None:
            self._count("predicted" if taught else "network", result["codes"][:valid])
        if taught:
            codes = {"accuracy": "code_accuracy", "cross_entropy": "code_cross_entropy"}
            self._codes.append({k: result[v][:valid].astype(np.float64) for k, v in codes.items()})

    def finish(self, settings: Mapping[str, Any]) -> Evaluation:
        """The evaluation of everything added so far."""
        scores = {
            row: {
                name: np.concatenate([batch[name][i] for batch in self._scores])
                for name in METRICS
                if name in self._scores[0]
            }
            for i, row in enumerate(self._rows)
        }
        codes = {
            name: np.concatenate([batch[name] for batch in self._codes])
            for name in (self._codes[0] if self._codes else ())
        }
        return Evaluation(
            names=tuple(self._names),
            indices=tuple(self._indices),
            scores=scores,
            codes=codes,
            code_counts=dict(self._counts),
            settings=dict(settings),
            pictures=self._pictures(),
        )

    def _count(self, whose: str, codes: np.ndarray):
        counts = np.bincount(codes.reshape(-1), minlength=self._codebook_size)
        self._counts[whose] = self._counts.get(whose, 0) + counts

    def _keep_pictures(self, start: int, psnr: np.ndarray, pictures: np.ndarray):
        merit = psnr[0]
        if "input" in self._rows:
            last = max(i for i, row in enumerate(self._rows) if row.startswith("w="))
            merit = psnr[last] - psnr[0]
        for i in range(pictures.shape[1]):
            self._kept[start + i] = (float(merit[i]), pictures[:, i].copy())
        chosen = {image for group in self._groups().values() for image in group}
        self._kept = {image: kept for image, kept in self._kept.items() if image in chosen}

    def _groups(self) -> dict[str, list[int]]:
        """Which images of those kept to show; the choice among all images never needs the rest."""
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
