"""Restart of dead codes, in a codebook that the optimizer trains."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from codeformer_jax.tasks.state import TrainState

# Stream of a step's key, apart from that of the quantizer's own draws.
_STREAM = 2**31 - 2


def restart_dead_codes(
    state: TrainState, latents: Float[Array, "b h w d"], key: Key[Array, ""], below: float
) -> TrainState:
    """Replaces every code that is used less than `below` times by a latent of the batch.

    A code's use is `state.code_usage` times the number of latents in a batch, a moving average. A
    restarted code gets an equal share, so it has hundreds of steps to find its place. Adam's
    moments stay: an unused code has had no gradient for so long that they are nearly zero.

    Args:
        state: after the optimizer's update.
        latents: encoder outputs, before quantization.
        key: of the step. Latents are drawn with replacement.
        below: average count per batch.

    Returns:
        The state with new codes in `params` and `ema_params`.
    """
    flat = jax.lax.stop_gradient(latents).astype(jnp.float32).reshape(-1, latents.shape[-1])
    size = state.code_usage.shape[0]
    dead = state.code_usage * flat.shape[0] < below
    drawn = jax.random.choice(jax.random.fold_in(key, _STREAM), flat, (size,))

    def replace(params):
        codes = jnp.where(dead[:, None], drawn, params["quantize"]["embedding"])
        return {**params, "quantize": {**params["quantize"], "embedding": codes}}

    return state.replace(
        params=replace(state.params),
        ema_params=replace(state.ema_params),
        code_usage=jnp.where(dead, 1 / size, state.code_usage),
    )
