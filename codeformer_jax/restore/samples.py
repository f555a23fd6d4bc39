"""Several restorations of one picture: codes drawn from their probabilities, not the likeliest."""

import dataclasses
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
from codeformer_jax.ops.random import make_key
from codeformer_jax.restore.errors import RestoreError
from codeformer_jax.restore.fit import Fitted
from codeformer_jax.restore.restorer import (
    RestoredBatch,
    Restorer,
    stack_pictures,
    to_input,
    to_pixels,
)
from codeformer_jax.sampling import Draw, draw_codes


@dataclasses.dataclass(frozen=True)
class Samples:
    """How many restorations of each picture are drawn.

    Attributes:
        number: restorations.
        seed: a restoration follows from it, the picture's name and its number, whatever the batch.
        temperature: of the codes' probabilities; 0 takes the likeliest code.

    Raises:
        RestoreError: at construction, for values that cannot be meant.
    """

    number: int
    seed: int = 0
    temperature: float = 1.0

    def __post_init__(self):
        if self.number < 1:
            raise RestoreError(f"samples is {self.number}; expected at least 1")
        if not 0 <= self.seed < 2**32:
            raise RestoreError(f"seed is {self.seed}; expected 0 to {2**32 - 1}")
        try:
            Draw(temperature=self.temperature).check(1)
        except ValueError as error:
            raise RestoreError(str(error)) from error


def sample_batch(
    restorer: Restorer,
    batch: Sequence[Fitted],
    names: Sequence[str],
    w: SupportsFloat,
    adain: bool | None,
    samples: Samples,
    *,
    batch_size: int,
) -> list[RestoredBatch]:
    """`samples.number` restorations of 1 to `batch_size` fitted pictures, with their codes.

    Encoder and transformer run once; the generator once for each restoration.

    Args:
        names: of the pictures.
        Others: see `Restorer.restore_batch`.
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
    for number in range(samples.number):
        indices = _draw(
            prediction.logits,
            np.uint32(samples.seed),
            labels,
            np.uint32(number),
            np.float32(samples.temperature),
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
def _draw(
    logits: Float[Array, "b n k"], seed: Array, labels: Array, number: Array, temperature: Array
) -> Int[Array, "b n"]:
    def key(label) -> Key[Array, ""]:
        return jax.random.fold_in(jax.random.fold_in(make_key(seed), label), number)

    sites = jnp.arange(logits.shape[1], dtype=jnp.int32)
    draw = jax.vmap(draw_codes, in_axes=(1, None, 0, None), out_axes=1)
    return draw(logits, jax.vmap(key)(labels), sites, Draw(temperature=temperature))


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
