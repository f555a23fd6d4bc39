"""Codes that nothing chooses any more start again from encoder outputs (a trained codebook)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from codeformer_jax.tasks.state import TrainState

# Stream of a step's key, beyond that of the quantizer's own draws.
_STREAM = 2**31 - 2


def restart_dead_codes(
    state: TrainState, latents: Float[Array, "b h w d"], key: Key[Array, ""], below: float
) -> TrainState:
    """`state` with a latent of the batch in place of every code used less than `below` times.

    A code's use is its moving average per batch, `state.code_usage` times the batch's latents; a
    restarted one gets an equal share, so that it has hundreds of steps to find its place. Adam's
    moments stay: a code without use has had no gradient for so long that they are nearly zero.

    Args:
        latents: encoder outputs, before quantization.
        key: of the step; the draw is with replacement.
        below: average count per batch.
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
