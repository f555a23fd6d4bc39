"""Start, updates and restarts of the codebook of a stage-I network."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Key

from codeformer_jax.nn.quantizer import codes_from_latents
from codeformer_jax.tasks import common
from codeformer_jax.tasks.state import PyTree, TrainState

# The least number of images whose latents the codes start from.
START_IMAGES = 8
# Stream of a step's key, apart from that of the quantizer's own draws.
_STREAM = 2**31 - 2


def _restarts_codes(module: Any) -> bool:
    """Returns whether the task restarts dead codes; a moving average does so itself."""
    trained = module.quantizer == "nearest" and module.ema_decay is None
    return trained and module.restart_below > 0


def init_network(
    config: ml_collections.ConfigDict,
    module: Any,
    keys: tuple[Key[Array, ""], Key[Array, ""]],
    real: Float[Array, "b h w 3"],
    previous: PyTree | None,
) -> tuple[PyTree, PyTree]:
    """Returns the parameters and collections of an autoencoder with a codebook.

    Args:
        config: the run's config. With `codebook_init` 'latents' the codes start from encoder
            outputs of the first images, enough of them for a latent per code. 'uniform' is the
            published U(+-1/K), with which most codes of a short run die.
        module: the autoencoder.
        keys: for the network and for the draw of codes.
        real: images in [-1, 1].
        previous: variables of a network of the same kind to start from, or None.

    Raises:
        ValueError: the shapes of `previous` differ from the config's.
    """
    variables = dict(module.init(keys[0], real[:1]))
    params = variables.pop("params")
    if previous is not None:
        source = common.plain_codebook(previous)
        if "codebook" in variables:
            codes = source["quantize"]["embedding"]
            average = variables["codebook"]["quantize"]
            variables = common.transplant(
                {"codebook": {"quantize": {**average, "embedding": average["sums"]}}},
                {"codebook": {"quantize": {**average, "embedding": codes, "sums": codes}}},
                ["codebook"],
            )
            source = {name: value for name, value in source.items() if name != "quantize"}
        params = common.transplant(params, source, params)
    elif config.codebook_init == "latents" and module.quantizer == "nearest":
        sites = math.prod(real.shape[1:3]) // module.downsampling**2
        seen = real[: max(START_IMAGES, -(-module.codebook_size // sites))]
        latents = module.apply({"params": params, **variables}, seen).latents
        codes = codes_from_latents(keys[1], latents, module.codebook_size)
        if "codebook" in variables:
            average = {**variables["codebook"]["quantize"], "embedding": codes, "sums": codes}
            variables = {"codebook": {"quantize": average}}
        else:
            params = {**params, "quantize": {"embedding": codes}}
    return params, variables


def seen(module: Any, state: TrainState, output: Any) -> PyTree:
    """Returns what `finish` needs of a network's output: 'indices' and perhaps 'latents'."""
    images = {"indices": output.indices}
    if state.collections or _restarts_codes(module):
        images["latents"] = output.latents
    return images


def finish(
    module: Any, images: PyTree, key: Key[Array, ""]
) -> Callable[[TrainState, TrainState], TrainState]:
    """Returns the update of the codebook beside the optimizer's, for `Task.advance`.

    A moving average follows the whole batch, and dead codes restart from it.

    Args:
        module: the autoencoder.
        images: `seen` of the whole batch.
        key: the step's key.
    """

    def change(before: TrainState, after: TrainState) -> TrainState:
        if before.collections:
            _, collections = module.apply(
                {"params": before.params, **before.collections},
                images["latents"],
                images["indices"],
                method="update_codebook",
                mutable=list(before.collections),
                rngs={"codes": key},
            )
            after = after.replace(collections=collections)
        if _restarts_codes(module):
            after = restart_dead_codes(after, images["latents"], key, module.restart_below)
        return after

    return change


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
        key: the step's key. Latents are drawn with replacement.
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
