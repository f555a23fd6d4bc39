"""Maps from a `PixelCNN`, with cached rows: a site costs one site of every layer, a row one row."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from codeformer_jax.nn import PixelCNN
from codeformer_jax.ops.checks import AnyArray, as_keys
from codeformer_jax.sampling.prefix import check_given
from codeformer_jax.sampling.sampler import Draw, draw_codes

# Their shapes are checked by the functions themselves, which say what is wrong.
Values = Int[Array, "..."] | Int[np.ndarray, "..."]
Labels = Int[Array, "..."] | Int[np.ndarray, "..."]


def sample_pixelcnn(
    module: PixelCNN,
    variables: Any,
    keys: AnyArray,
    *,
    labels: Labels | None = None,
    size: tuple[int, int] | None = None,
    how: Draw | None = None,
    given: Values | None = None,
    keep: Bool[np.ndarray, "..."] | None = None,
    cache: bool = True,
) -> Int[Array, "b h w c"]:
    """Maps of values [b, h, w, c], row by row.

    Computed in float32 at full precision, whatever `module.dtype` is.

    Args:
        keys: one per map: a map follows from its own key, label and given values, not from what
            else is in the batch.
        labels: a class per map, [b], where the network has classes.
        size: rows and columns; default: `module.map_size` of both.
        how: temperature, top-k, top-p.
        given, keep: values [b, h, w, c], and a mask bool [h, w] of the sites where they are kept
            instead of drawn. A site sees those before it only, row-major.
        cache: False computes a full forward for every value: the same values, for comparison.

    Raises:
        ValueError: labels, sizes or settings that do not fit the network, naming both.
    """
    height, width = size or (module.map_size, module.map_size)
    if min(height, width) < 1:
        raise ValueError(f"maps of {height}x{width} cannot be drawn; sides are 1 or more")
    how = how or Draw()
    how.check(module.levels)
    batch = keys.shape[0]
    keys = as_keys(keys, batch, "map")
    if not isinstance(labels, jax.core.Tracer):
        check_labels(module, labels, batch)
    shape = (batch, height, width, module.channels)
    given, keep = check_given(given, keep, shape, module.levels, ("values", "network"))
    # The two ways multiply in another order: TensorFloat-32 or bfloat16 products would differ.
    module = module.clone(dtype=jnp.float32)
    with jax.default_matmul_precision("highest"):
        return (_sample if cache else _sample_fully)(
            module,
            variables,
            keys,
            None if labels is None else jnp.asarray(labels, jnp.int32),
            how,
            jnp.asarray(given),
            jnp.asarray(keep),
        )


def check_labels(module: PixelCNN, labels: Any, batch: int) -> None:
    """Raises ValueError unless each map has the label of a known class, or none where none is."""
    classes = module.classes
    if labels is None and not classes:
        return
    if labels is None or not classes:
        given = "no labels were" if labels is None else "labels were"
        raise ValueError(
            f"this network is conditioned on {classes or 'no'} classes, and {given} given; give "
            "one label per map where it has classes, and None otherwise"
        )
    found = np.asarray(labels)
    if found.shape != (batch,) or not np.issubdtype(found.dtype, np.integer):
        raise ValueError(
            f"labels are {found.dtype} {list(found.shape)}; expected {batch} integers, one per map"
        )
    unknown = sorted(set(found[(found < 0) | (found >= classes)].tolist()))
    if unknown:
        raise ValueError(
            f"unknown class {', '.join(map(str, unknown))}: this network knows 0 to {classes - 1}"
        )


def _draw(logits, keys, place, how, given, keep):
    return jnp.where(keep, given, draw_codes(logits, keys, place, how))


@partial(jax.jit, static_argnums=0)
def _sample(module, variables, keys, labels, how, given, keep):
    batch, height, width, channels = given.shape

    def call(method, *arguments):
        return module.apply(variables, *arguments, method=method)

    def site(sites, inputs):
        contexts, place, given, keep = inputs
        values = jnp.where(keep, given, 0)
        for channel in range(channels):
            kept, logits = call("next_site", sites, contexts, values)
            drawn = _draw(
                logits[:, channel],
                keys,
                place * channels + channel,
                how,
                given[:, channel],
                keep,
            )
            values = values.at[:, channel].set(drawn)
        return _with_values(call, kept, sites, values), values

    def row(rows, inputs):
        places, given, keep = inputs
        rows, contexts = call("next_row", rows, labels)
        columns = [context.swapaxes(0, 1) for context in contexts]
        inputs = (tuple(columns), places, given.swapaxes(0, 1), keep)
        _, values = jax.lax.scan(site, call("empty_sites", batch), inputs)
        values = values.swapaxes(0, 1)
        return _with_values(call, rows, rows, values), values

    places = jnp.arange(height * width).reshape(height, width)
    inputs = (places, given.swapaxes(0, 1), keep)
    _, values = jax.lax.scan(row, call("empty_rows", batch, width), inputs)
    return values.swapaxes(0, 1)


def _with_values(call, new, old, values):
    """The caches `new` with drawn values behind those that the first layer's `old` holds."""
    first = jnp.concatenate([old[0][:, 1:], call("embedded", values)[:, None]], axis=1)
    return (first, *new[1:])


@partial(jax.jit, static_argnums=0)
def _sample_fully(module, variables, keys, labels, how, given, keep):
    shape = given.shape

    def flat(x):
        return x.reshape(shape[0], -1, *x.shape[4:])

    def step(place, values):
        logits = flat(module.apply(variables, values.reshape(shape), labels))
        at = partial(jax.lax.dynamic_index_in_dim, index=place, axis=1, keepdims=False)
        kept = keep.reshape(-1)[place // shape[3]]
        drawn = _draw(at(logits), keys, place, how, at(flat(given)), kept)
        return jax.lax.dynamic_update_index_in_dim(values, drawn, place, axis=1)

    start = flat(given)
    return jax.lax.fori_loop(0, start.shape[1], step, start).reshape(shape)
