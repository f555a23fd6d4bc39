"""A step with a loss or gradient that is not finite changes nothing but the step number."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from codeformer_jax.tasks.state import TrainState

Metrics = dict[str, Float[Array, ""]]

_LOSSES = ("loss", "d_real", "d_fake")
_NORMS = "grad_norm_"


def decisive(name: str) -> bool:
    """Whether a metric of this name has to be finite: losses and norms of gradients."""
    return name in _LOSSES or name.startswith(_NORMS)


def take_step(
    state: TrainState, metrics: Metrics, update: Callable[[TrainState], TrainState]
) -> tuple[TrainState, Metrics]:
    """The state after a step, which is `update(state)` where all losses and gradients are finite.

    Elsewhere parameters, averages, optimizers, batch statistics and the codebook's statistics stay,
    all of them; the step number goes on. Decided on the device. A norm that overflows float32
    counts as not finite: Adam's squares would overflow too.

    Args:
        metrics: of the step, with every loss and the norms of all gradients.
        update: all changes to the state but its counts of steps.

    Returns:
        The state, and `metrics` with 'skipped' (0 or 1), 'skipped_in_row' and 'skipped_total',
        counted after this step.
    """
    finite = _finite(metrics)

    def branch(state: TrainState) -> TrainState:
        return jax.lax.cond(finite, update, lambda same: same, state)

    def select(state: TrainState) -> TrainState:
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), update(state), state)

    # A branch of an accelerator's program would wait for the host. On a CPU a choice between old
    # and new makes the compiler copy the state first: three times the optimizer's time.
    new = jax.lax.platform_dependent(state, cpu=branch, default=select)
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
