"""Crops of one aligned face each: read, fitted into the network's square, written."""

import dataclasses
from collections.abc import Sequence

from codeformer_jax.data.images import read_image, write_image
from codeformer_jax.restore.fit import Fitted, unfit
from codeformer_jax.restore.heatmap import draw_heatmap
from codeformer_jax.restore.jobs import Job
from codeformer_jax.restore.restore_options import RestoreOptions
from codeformer_jax.restore.restorer import Restorer
from codeformer_jax.restore.scores import Scorer, Scores
from codeformer_jax.restore.stream import FaceResult, Reading, Results, writing


class AlignedFaces:
    """Reader of aligned faces.

    Args:
        restorer: the network; None if nothing is read.
        options: only picture and file options are read.
        scorer: prior of the heat maps, or None.
        scores: where the scores of written pictures go.
        kept: existing files that are not written again.
    """

    def __init__(
        self,
        restorer: Restorer | None,
        options: RestoreOptions,
        scorer: Scorer | None,
        scores: Scores,
        kept: Sequence,
    ):
        self._restorer, self._options = restorer, options
        self._scorer, self._scores, self._kept = scorer, scores, frozenset(kept)

    def __call__(self, job: Job) -> Reading:
        """Reads a picture; raises UnreadableImage."""
        picture = read_image(job.source, self._options.max_megapixels)
        fitted = self._restorer.fit(picture.pixels)
        fitted = dataclasses.replace(fitted, notes=picture.notes + fitted.notes)

        def write(results: Results) -> tuple[str, ...]:
            self._write(job, fitted, [crops[0] for crops in results])
            return ()

        return Reading(crops=(fitted,), write=write, notes=fitted.notes)

    def _write(self, job: Job, fitted: Fitted, results: Sequence[FaceResult]) -> None:
        pixels = [unfit(result.pixels, fitted) for result in results]
        pictures = list(zip(job.results, pixels, strict=True))
        if self._scorer:
            prior = self._scorer.prior
            scale = {"uniform": self._scorer.bits_uniform, "heldout": prior.heldout_bits}
            pictures += [
                (path, draw_heatmap(picture, x.bits, fitted, **scale))
                for path, picture, x in zip(job.maps, pixels, results, strict=True)
            ]
        for path, picture in pictures:
            if path not in self._kept:
                with writing(path, self._options.force):
                    write_image(path, picture, gray=fitted.gray and path in job.results)
        self._scores.add(job, [result.bits for result in results])
