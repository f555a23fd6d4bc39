"""Results of an evaluation: scores per image, their means, code statistics, JSON."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from codeformer_jax.degrade import Parameters, Recipe, manifest_fields
from codeformer_jax.metrics import METRICS, CodebookUsage, codebook_usage


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures of one image for the report.

    Attributes:
        group: why it is shown: 'worst', 'first' or 'best'.
        image: its place among the evaluated images.
        pictures: {row: uint8 [h, w, 3]}, with the row 'truth' last.
    """

    group: str
    image: int
    pictures: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of n images.

    Attributes:
        names: names of the images [n].
        indices: places of the images in the source [n].
        scores: {row: {metric: [n], or a scalar for a metric of the whole set}}. Rows are 'input',
            'w=...' in rising order and, with a teacher, 'teacher'; or 'reconstruction' alone for
            an autoencoder. Metrics are names from `metrics.METRICS`.
        codes: {metric of codes: [n]}; empty without a teacher.
        code_counts: {whose: how often each code occurs [K]}; 'predicted' and 'teacher', or
            'network' where there is no teacher.
        settings: everything that the scores depend on, as JSON values.
        pictures: a few images: the worst, the first and the best.
    """

    names: tuple[str, ...]
    indices: tuple[int, ...]
    scores: Mapping[str, Mapping[str, np.ndarray]]
    codes: Mapping[str, np.ndarray]
    code_counts: Mapping[str, np.ndarray]
    settings: Mapping[str, Any]
    pictures: tuple[Pictures, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics of pictures."""
        return tuple(next(iter(self.scores.values())))

    @property
    def ranking(self) -> str | None:
        """The metric that ranks the images: the first one with a value per image."""
        return next((name for name in self.metrics if METRICS[name].reduce is None), None)

    @property
    def best_row(self) -> str:
        """The row with the largest fidelity weight, or 'reconstruction'."""
        return [row for row in self.scores if row not in ("input", "teacher")][-1]

    @property
    def gain(self) -> np.ndarray | None:
        """Gain of `best_row` over the input in the ranking metric, positive if better, [n].

        None if nothing was degraded or no metric ranks.
        """
        if "input" not in self.scores or self.ranking is None:
            return None
        best, start = (self.scores[row][self.ranking] for row in (self.best_row, "input"))
        return METRICS[self.ranking].gain(best, start)

    def means(self) -> dict[str, dict[str, float]]:
        """Returns {row: {metric: mean over the images, or value of the set}}."""
        return {
            row: {metric: float(np.mean(values)) for metric, values in scores.items()}
            for row, scores in self.scores.items()
        }

    def code_means(self) -> dict[str, float]:
        """Returns the means of the metrics of codes, and the baselines that they must beat.

        A metric's own prefix 'code_' is left out. 'commonest_accuracy' is that of always guessing
        the teacher's commonest code of this set, 'frequency_cross_entropy' that of guessing by the
        codes' frequencies. Empty without teacher.
        """
        means = {name.removeprefix("code_"): float(np.mean(v)) for name, v in self.codes.items()}
        return means | dict(self.baselines().values())

    def baselines(self) -> dict[str, tuple[str, float]]:
        """Returns {metric of codes: (name, value) of its baseline}; see `Metric.baseline`."""
        baselines = {name: METRICS[name].baseline for name in self.codes}
        usage = self._usages().get("teacher")
        return {name: (b[0], float(b[1](usage))) for name, b in baselines.items() if b and usage}

    def usage(self) -> dict[str, dict[str, int | float]]:
        """Returns {whose: {'perplexity', 'used', 'dead', 'commonest_share'}}."""
        return {
            whose: {
                field.name: getattr(usage, field.name).item() for field in dataclasses.fields(usage)
            }
            for whose, usage in self._usages().items()
        }

    def to_json(self) -> str:
        """Returns settings, means and the scores of every image as standard JSON.

        Raises:
            ValueError: a score is not finite.
        """
        images = [
            {
                "name": name,
                "index": index,
                "scores": {
                    row: {metric: float(v[i]) for metric, v in scores.items() if np.ndim(v)}
                    for row, scores in self.scores.items()
                },
                **{name: float(values[i]) for name, values in self.codes.items()},
            }
            for i, (name, index) in enumerate(zip(self.names, self.indices, strict=True))
        ]
        codes = {
            **self.code_means(),
            "usage": self.usage(),
            "counts": {whose: counts.tolist() for whose, counts in self.code_counts.items()},
        }
        content = {
            "settings": self.settings,
            "means": self.means(),
            "codes": codes,
            "images": images,
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    def _usages(self) -> dict[str, CodebookUsage]:
        return {
            whose: codebook_usage(jnp.asarray(counts, jnp.float32))
            for whose, counts in self.code_counts.items()
        }


def json_values(tree: Any) -> Any:
    """Returns dataclasses, mappings, sequences and arrays as dicts, lists and numbers.

    A float32 becomes the shortest number that is read back as the same float32.
    """
    if isinstance(tree, Recipe | Parameters):
        tree = manifest_fields(tree)
    if dataclasses.is_dataclass(tree):
        tree = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
    if isinstance(tree, Mapping):
        return {str(name): json_values(value) for name, value in tree.items()}
    if tree is None or isinstance(tree, str):
        return tree
    if isinstance(tree, list | tuple):
        return [json_values(value) for value in tree]
    array = np.asarray(tree)
    if array.ndim:
        return [json_values(value) for value in array]
    # Through text: a float64 of the same value would show digits that a float32 does not have.
    return float(str(array)) if np.issubdtype(array.dtype, np.floating) else array.item()
