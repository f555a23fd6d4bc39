"""Several restorations of one picture from sampled codes."""

import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from codeformer_jax.nn import CodeFormer, CodePrediction
from codeformer_jax.nn.precision import products_in
from codeformer_jax.restore.fit import Fitted
from codeformer_jax.restore.restorer import (
    RestoredBatch,
    Restorer,
    stack_pictures,
    to_input,
    to_pixels,
)
from codeformer_jax.sampling import Sampler, sample_codes
from codeformer_jax.system.keys import make_key


def sample_batch(
    restorer: Restorer,
    batch: Sequence[Fitted],
    names: Sequence[str],
    w: SupportsFloat,
    adain: bool | None,
    *,
    batch_size: int,
    number: int,
    seed: int = 0,
    temperature: float = 1.0,
) -> list[RestoredBatch]:
    """Samples several restorations of each picture.

    Encoder and transformer run once, the generator once for each restoration.

    Args:
        restorer: the network.
        batch: 1 to `batch_size` fitted pictures.
        names: names of the pictures. A restoration depends on its seed, name and number only.
        w, adain, batch_size: see `Restorer.restore_batch`.
        number: restorations of each picture.
        seed: 0 to 2**32 - 1.
        temperature: divides the logits of the codes; 0 takes the likeliest.

    Returns:
        `number` batches with their codes.
    """
    images = stack_pictures(batch, batch_size)
    weights = np.full(batch_size, float(w), np.float32)
    module, variables = restorer.module, restorer.variables
    adain = restorer.adain if adain is None else bool(adain)
    with products_in(restorer.precision):
        prediction = _predict(variables, images, module=module)
    names = [*names, *[names[-1]] * (batch_size - len(names))]
    labels = np.array([zlib.crc32(name.encode()) for name in names], np.uint32)
    results = []
    for index in range(number):
        indices = _sample(
            prediction.logits, np.uint32(seed), labels, np.uint32(index), np.float32(temperature)
        )
        with products_in(restorer.precision):
            pixels, finite = _generate(
                variables,
                prediction,
                indices,
                weights,
                module=module,
                adain=adain,
                whole=images.dtype == np.uint8,
            )
        arrays = (np.asarray(array)[: len(batch)] for array in (pixels, finite, indices))
        results.append(RestoredBatch(*arrays))
    return results


@functools.partial(jax.jit, static_argnames="module")
def _predict(variables: Mapping[str, Any], images: Array, *, module: CodeFormer) -> CodePrediction:
    return module.apply(variables, to_input(images), method="predict")


@jax.jit
def _sample(
    logits: Float[Array, "b n k"], seed: Array, labels: Array, index: Array, temperature: Array
) -> Int[Array, "b n"]:
    def key(label) -> Key[Array, ""]:
        return jax.random.fold_in(jax.random.fold_in(make_key(seed), label), index)

    sites = jnp.arange(logits.shape[1], dtype=jnp.int32)
    sample = jax.vmap(sample_codes, in_axes=(1, None, 0, None), out_axes=1)
    return sample(logits, jax.vmap(key)(labels), sites, Sampler(temperature=temperature))


@functools.partial(jax.jit, static_argnames=("module", "adain", "whole"))
def _generate(
    variables: Mapping[str, Any],
    prediction: CodePrediction,
    indices: Int[Array, "b n"],
    w: Float[Array, "b"],
    *,
    module: CodeFormer,
    adain: bool,
    whole: bool,
) -> tuple[Array, Bool[Array, "b"]]:
    restored = module.apply(variables, prediction, indices, w=w, adain=adain, method="restore")
    return to_pixels(restored, whole)
