"""Registry of metrics: what an evaluation computes, and how its table and report show it.

A metric of your own, in a module that `config.plugins` names:

    import jax.numpy as jnp
    from codeformer_jax.metrics import METRICS, Metric

    def absolute_error(pictures, truth):
        return jnp.mean(jnp.abs(pictures - truth), axis=(1, 2, 3))

    METRICS.register("mae")(
        Metric(absolute_error, "MAE", format=".4f", higher_is_better=False)
    )

With `config.eval.metrics = ('psnr', 'ssim', 'mae')` it appears in metrics.json, in the table and in
the report. The first metric of pictures ranks the images of the report and gives the gain. A metric
of a whole set, such as a Fréchet distance, returns statistics of each image and has a `reduce`.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from codeformer_jax.metrics.code_usage import CodebookUsage, code_accuracy, code_cross_entropy
from codeformer_jax.metrics.images import psnr, ssim
from codeformer_jax.system.registry import Registry

# What a metric can ask for, and when it is there.
INPUTS = {
    "pictures": "always: pictures under test [b, h, w, 3], RGB in [0, 1], rounded to 8 bits",
    "truth": "always: clean images [b, h, w, 3], RGB in [0, 1]",
    "lpips": "with eval.lpips: function of two batches in [-1, 1] that returns distances [b]",
    "st_lpips": "with eval.st_lpips: function like 'lpips'",
    "codes": "with a codebook: codes that the network predicts or encodes [b, n]",
    "logits": "with a CodeFormer: logits of the codes [b, n, K]",
    "target_codes": "with a teacher: its codes of the clean images [b, n]",
}


@dataclasses.dataclass(frozen=True)
class Metric:
    """Function that scores images, and how its values are shown.

    A metric that needs 'pictures' is computed for every row of an evaluation: the degraded input,
    each fidelity weight, the teacher. Any other is a metric of codes, computed once.

    Attributes:
        function: takes the arrays of `needs` in their order; jittable. Returns values [b], or
            statistics [b, ...] if there is a `reduce`.
        heading: name in tables.
        unit: unit of the values, such as 'dB'; '' for none.
        format: format specification of a value, such as '.2f' or '.1%'.
        higher_is_better: direction.
        needs: names from `INPUTS`. Without the input of one of them the metric is left out, or
            raises an error if `config.eval.metrics` names it.
        reduce: of a metric of pictures of a whole set: statistics of all images [n, ...], a NumPy
            array -> one number. None: the score of a set is the mean over its images.
        baseline: of a metric of codes: name and value of what guessing by the frequencies of the
            target codes reaches, given their `CodebookUsage`.
    """

    function: Callable[..., Any]
    heading: str
    unit: str = ""
    format: str = ".4f"
    higher_is_better: bool = True
    needs: tuple[str, ...] = ("pictures", "truth")
    reduce: Callable[[Any], float] | None = None
    baseline: tuple[str, Callable[[CodebookUsage], float]] | None = None

    def __post_init__(self):
        if unknown := sorted(set(self.needs) - INPUTS.keys()):
            raise ValueError(
                f"metric {self.heading!r} needs {', '.join(unknown)}; expected names of "
                f"{', '.join(INPUTS)}"
            )

    @property
    def of_pictures(self) -> bool:
        """Whether each row of an evaluation has its own value."""
        return "pictures" in self.needs

    @property
    def title(self) -> str:
        """Heading with the unit: 'PSNR (dB)'."""
        return f"{self.heading} ({self.unit})" if self.unit else self.heading

    @property
    def arrow(self) -> str:
        """Arrow that points to the better side."""
        return "↑" if self.higher_is_better else "↓"

    def text(self, value: float, *, sign: bool = False) -> str:
        """Returns a value in the metric's format, with '+' before a positive one if `sign`."""
        return f"{value:{'+' if sign else ''}{self.format}}"

    def gain(self, value: Any, start: Any) -> Any:
        """Returns how much better `value` is than `start`; negative if it is worse."""
        return value - start if self.higher_is_better else start - value


METRICS: Registry[Metric] = Registry("config.eval.metrics")


def choose(names: Sequence[str] | None, given: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the metrics to compute.

    Args:
        names: `config.eval.metrics`; None for every registered metric whose needs are given.
        given: names from `INPUTS` that an evaluation has.

    Raises:
        ValueError: an unknown name, or one whose needs are not given.
    """
    if names is None:
        return tuple(name for name in METRICS if set(METRICS[name].needs) <= set(given))
    for name in names:
        for need in METRICS[name].needs:
            if need not in given:
                raise ValueError(
                    f"config.eval.metrics: {name!r} needs {need!r}, which this evaluation does not "
                    f"have; it is there {INPUTS[need].partition(':')[0]}"
                )
    return tuple(dict.fromkeys(names))


METRICS.register("psnr")(Metric(psnr, "PSNR", unit="dB", format=".2f"))
METRICS.register("ssim")(Metric(ssim, "SSIM"))
METRICS.register("lpips")(
    Metric(
        lambda pictures, truth, lpips: lpips(2 * pictures - 1, 2 * truth - 1),
        "LPIPS",
        higher_is_better=False,
        needs=("pictures", "truth", "lpips"),
    )
)
METRICS.register("st_lpips")(
    Metric(
        lambda pictures, truth, st_lpips: st_lpips(2 * pictures - 1, 2 * truth - 1),
        "ST-LPIPS",
        higher_is_better=False,
        needs=("pictures", "truth", "st_lpips"),
    )
)
METRICS.register("code_accuracy")(
    Metric(
        code_accuracy,
        "accuracy",
        format=".1%",
        needs=("codes", "target_codes"),
        baseline=("commonest_accuracy", lambda usage: float(usage.commonest_share)),
    )
)
METRICS.register("code_cross_entropy")(
    Metric(
        code_cross_entropy,
        "cross entropy",
        unit="nats",
        format=".3f",
        higher_is_better=False,
        needs=("logits", "target_codes"),
        baseline=("frequency_cross_entropy", lambda usage: math.log(usage.perplexity)),
    )
)
