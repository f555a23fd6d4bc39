"""Warnings about a discriminator or codebook that fails, with advice.

Each warning appears once when its condition has held for 200 steps.
"""

import logging
from collections import deque

import numpy as np

WINDOW = 200  # Steps that have the metric.
LEAST_HINGE = 0.05  # Sum of the discriminator's two losses.
LARGEST_LOGIT = 20.0  # Mean logit. Beyond it the hinge loss has no gradient.
LARGEST_DEAD_SHARE = 0.5
LEAST_PERPLEXITY_SHARE = 0.5  # Of the best window's perplexity.


class Symptoms:
    """Watch over the metrics of a run.

    Args:
        adaptive_maximum: the clamp of the adaptive weight, or None in a task without a GAN.
        codebook_size: number of codes, or None if no codebook is trained.
    """

    def __init__(self, adaptive_maximum: float | None, codebook_size: int | None):
        self._adaptive_maximum, self._codebook_size = adaptive_maximum, codebook_size
        self._windows: dict[str, deque[float]] = {}
        self._best_perplexity = 0.0
        self._warned: set[str] = set()

    def read(self, step: int, fetched: list[dict[str, float]]) -> None:
        """Reads the metrics of the steps since the last call and logs warnings.

        Args:
            step: the current step.
            fetched: one dict of metrics per step.
        """
        for metrics in fetched:
            if metrics.get("skipped"):
                continue
            for name, value in metrics.items():
                self._windows.setdefault(name, deque(maxlen=WINDOW)).append(float(value))
        means = {
            name: float(np.mean(window))
            for name, window in self._windows.items()
            if len(window) == WINDOW
        }
        self._best_perplexity = max(self._best_perplexity, means.get("perplexity", 0.0))
        texts = {
            "discriminator": _discriminator(means),
            "adaptive weight": _adaptive_weight(means, self._adaptive_maximum),
            "codebook": _codebook(means, self._codebook_size, self._best_perplexity),
        }
        for symptom, text in texts.items():
            if text and symptom not in self._warned:
                logging.warning("step %d: %s", step, text)
                self._warned.add(symptom)


def _discriminator(means: dict[str, float]) -> str | None:
    if not {"d_real", "d_fake", "d_logit_real", "d_logit_fake"} <= means.keys():
        return None
    hinge = means["d_real"] + means["d_fake"]
    logit = max(abs(means["d_logit_real"]), abs(means["d_logit_fake"]))
    if hinge >= LEAST_HINGE and logit <= LARGEST_LOGIT:
        return None
    return (
        f"the discriminator has won: over {WINDOW} steps d_real + d_fake is {hinge:.3g}, the mean "
        f"logits are {means['d_logit_real']:.3g} (real) and {means['d_logit_fake']:.3g} "
        "(generated). Its gradients now teach the generator artefacts. Go back to an earlier "
        "checkpoint and start the GAN later (--config.loss.gan_start), weigh it less "
        "(--config.loss.gan_weight), or make the discriminator smaller "
        "(--config.discriminator.n_layers, .ndf) in a run of its own."
    )


def _adaptive_weight(means: dict[str, float], maximum: float | None) -> str | None:
    if maximum is None or means.get("adaptive_weight", -1.0) < 0.99 * maximum:
        return None
    ratio = means.get("adaptive_ratio", float("nan"))
    return (
        f"the adaptive weight has been at its clamp, {maximum:g}, for {WINDOW} steps (the ratio of "
        f"the gradients is {ratio:.3g}): it adapts nothing, and the GAN counts for "
        "loss.gan_weight times the clamp. A small ratio above the clamp is harmless; a large one "
        "says that the discriminator's gradients vanish: look at d_real and d_fake, and raise "
        "--config.loss.adaptive_maximum or --config.loss.gan_weight if both are well above 0."
    )


def _codebook(
    means: dict[str, float], codebook_size: int | None, best_perplexity: float
) -> str | None:
    if codebook_size is None or not {"dead_codes", "perplexity"} <= means.keys():
        return None
    dead, perplexity = means["dead_codes"], means["perplexity"]
    many_dead = dead > LARGEST_DEAD_SHARE * codebook_size
    fallen = perplexity < LEAST_PERPLEXITY_SHARE * best_perplexity
    if not many_dead and not fallen:
        return None
    return (
        f"the codebook is dying: over {WINDOW} steps {dead:.0f} of {codebook_size} codes "
        f"are dead and the perplexity is {perplexity:.1f} (it was {best_perplexity:.1f}). Let dead "
        "codes start again from encoder outputs (--config.model.restart_below=0.1), lower "
        "--config.optimizer.learning_rate, or, in a new run, keep the codebook as a moving average "
        "(--config.model.ema_decay=0.99) that starts from latents (--config.codebook_init=latents)."
    )
