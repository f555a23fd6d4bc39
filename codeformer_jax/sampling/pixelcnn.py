"""Maps of values from a `PixelCNN`, sampled in one compiled loop with cached rows.

A row costs one row of every vertical layer, a site one site of every horizontal layer.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from codeformer_jax.nn import PixelCNN
from codeformer_jax.ops.checks import AnyArray, as_keys
from codeformer_jax.sampling.sampler import Sampler, check_known, sample_codes

# The functions check the shapes themselves, with a message.
Values = Int[Array, "..."] | Int[np.ndarray, "..."]
Labels = Int[Array, "..."] | Int[np.ndarray, "..."]


def sample_pixelcnn(
    module: PixelCNN,
    variables: Any,
    keys: AnyArray,
    *,
    labels: Labels | None = None,
    size: tuple[int, int] | None = None,
    sampler: Sampler | None = None,
    known: Values | None = None,
    known_mask: Bool[np.ndarray, "..."] | None = None,
    cache: bool = True,
) -> Int[Array, "b h w c"]:
    """Samples maps of values row by row, in float32 at full precision whatever `module.dtype` is.

    Args:
        module, variables: the prior.
        keys: one per map; a map does not depend on the rest of the batch.
        labels: one class per map, [b], if the network has classes.
        size: rows and columns; default `module.map_size` for both.
        sampler: temperature, top-k, top-p; default temperature 1.
        known: values [b, h, w, c] to keep where `known_mask` is True.
        known_mask: bool [h, w]. A site sees only the known values before it, row-major.
        cache: False computes a full forward for every value. The values are the same.

    Returns:
        Values [b, h, w, c].

    Raises:
        ValueError: if labels, sizes or settings do not fit the network.
    """
    height, width = size or (module.map_size, module.map_size)
    if min(height, width) < 1:
        raise ValueError(f"size is {height}x{width}; expected sides of at least 1")
    sampler = sampler or Sampler()
    sampler.check(module.levels)
    batch = keys.shape[0]
    keys = as_keys(keys, batch, "map")
    if not isinstance(labels, jax.core.Tracer):
        check_labels(module, labels, batch)
    shape = (batch, height, width, module.channels)
    known, mask = check_known(known, known_mask, shape, module.levels)
    # With and without cache, products are summed in another order: in TensorFloat-32 or bfloat16
    # the logits would differ.
    module = module.clone(dtype=jnp.float32)
    with jax.default_matmul_precision("highest"):
        return (_sample if cache else _sample_fully)(
            module,
            variables,
            keys,
            None if labels is None else jnp.asarray(labels, jnp.int32),
            sampler,
            jnp.asarray(known),
            jnp.asarray(mask),
        )


def check_labels(module: PixelCNN, labels: Any, batch: int) -> None:
    """Checks that labels are classes of the network.

    Args:
        module: the network.
        labels: integers [batch], or None for a network without classes.
        batch: number of maps.

    Raises:
        ValueError: if they are not.
    """
    classes = module.classes
    if labels is None and not classes:
        return
    if labels is None or not classes:
        remedy = "give one per map" if labels is None else "leave the labels out"
        raise ValueError(f"labels: this network has {classes or 'no'} classes; {remedy}")
    found = np.asarray(labels)
    if found.shape != (batch,) or not np.issubdtype(found.dtype, np.integer):
        raise ValueError(
            f"labels are {found.dtype} {list(found.shape)}; expected {batch} integers, one per map"
        )
    unknown = sorted(set(found[(found < 0) | (found >= classes)].tolist()))
    if unknown:
        raise ValueError(
            f"class {', '.join(map(str, unknown))} is unknown; this prior has the classes 0 to "
            f"{classes - 1}"
        )


@partial(jax.jit, static_argnums=0)
def _sample(module, variables, keys, labels, sampler, known, mask):
    batch, height, width, channels = known.shape

    def call(method, *arguments):
        return module.apply(variables, *arguments, method=method)

    def site(sites, inputs):
        contexts, place, known, is_known = inputs
        values = jnp.where(is_known, known, 0)
        for channel in range(channels):
            new, logits = call("next_site", sites, contexts, values)
            index = place * channels + channel
            sampled = sample_codes(logits[:, channel], keys, index, sampler)
            value = jnp.where(is_known, known[:, channel], sampled)
            values = values.at[:, channel].set(value)
        return _with_values(call, new, sites, values), values

    def row(rows, inputs):
        places, known, mask = inputs
        rows, contexts = call("next_row", rows, labels)
        columns = [context.swapaxes(0, 1) for context in contexts]
        inputs = (tuple(columns), places, known.swapaxes(0, 1), mask)
        _, values = jax.lax.scan(site, call("empty_sites", batch), inputs)
        values = values.swapaxes(0, 1)
        return _with_values(call, rows, rows, values), values

    places = jnp.arange(height * width).reshape(height, width)
    inputs = (places, known.swapaxes(0, 1), mask)
    _, values = jax.lax.scan(row, call("empty_rows", batch, width), inputs)
    return values.swapaxes(0, 1)


def _with_values(call, new, old, values):
    """Returns the caches `new` with the values appended to those of the first layer in `old`."""
    first = jnp.concatenate([old[0][:, 1:], call("embedded", values)[:, None]], axis=1)
    return (first, *new[1:])


@partial(jax.jit, static_argnums=0)
def _sample_fully(module, variables, keys, labels, sampler, known, mask):
    shape = known.shape

    def flat(x):
        return x.reshape(shape[0], -1, *x.shape[4:])

    def step(place, values):
        logits = flat(module.apply(variables, values.reshape(shape), labels))
        at = partial(jax.lax.dynamic_index_in_dim, index=place, axis=1, keepdims=False)
        sampled = sample_codes(at(logits), keys, place, sampler)
        value = jnp.where(mask.reshape(-1)[place // shape[3]], at(start), sampled)
        return jax.lax.dynamic_update_index_in_dim(values, value, place, axis=1)

    start = flat(known)
    return jax.lax.fori_loop(0, start.shape[1], step, start).reshape(shape)
