"""Guard against non-finite losses and gradients: such a step changes only the step number."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from codeformer_jax.ops.fusion import update_where
from codeformer_jax.tasks.state import TrainState

Metrics = dict[str, Float[Array, ""]]

_LOSSES = ("loss", "d_real", "d_fake")
_NORMS = "grad_norm_"


def decisive(name: str) -> bool:
    """Returns whether a metric of this name must be finite: a loss or a norm of gradients."""
    return name in _LOSSES or name.startswith(_NORMS)


def take_step(
    state: TrainState, metrics: Metrics, update: Callable[[TrainState], TrainState]
) -> tuple[TrainState, Metrics]:
    """Applies an update if all losses and gradients are finite, and counts the step.

    Otherwise the step is skipped: parameters, averages, optimizers and statistics stay. The device
    decides. A norm that overflows float32 counts as non-finite, since Adam's squares would overflow
    too.

    Args:
        state: the state before the step.
        metrics: the step's metrics, with every loss and the norms of all gradients.
        update: all changes to the state except its counts of steps.

    Returns:
        The state after the step, and `metrics` with 'skipped' (0 or 1), 'skipped_in_row' and
        'skipped_total', which include this step.
    """
    finite = _finite(metrics)
    new = update_where(finite, update, state)
    missed = jnp.where(finite, 0, 1)
    new = new.replace(
        step=state.step + 1,
        skipped=state.skipped + missed,
        skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
    )
    counts = {
        "skipped": missed,
        "skipped_in_row": new.skipped_in_row,
        "skipped_total": new.skipped,
    }
    return new, metrics | {name: x.astype(jnp.float32) for name, x in counts.items()}


def _finite(metrics: Metrics) -> Bool[Array, ""]:
    values = jnp.stack([value for name, value in metrics.items() if decisive(name)])
    return jnp.all(jnp.isfinite(values))
