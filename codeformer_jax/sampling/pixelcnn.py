"""Maps drawn from a PixelCNN, with cached rows or, to compare with, by a full forward per value.

Every value is argmax(logits + temperature * Gumbel noise), an exact draw from
softmax(logits / temperature). The noise follows from the map's key and the value's place alone, so
that both ways draw the same map.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key

from codeformer_jax.nn import PixelCNN

# Their shapes are checked by the functions themselves, which say what is wrong.
Values = Int[Array, "..."] | Int[np.ndarray, "..."]  # [b, h, w, c]
Labels = Int[Array, "..."] | Int[np.ndarray, "..."]  # [b]


def sample(
    module: PixelCNN,
    variables: Any,
    keys: Key[Array, "b"],
    *,
    height: int | None = None,
    width: int | None = None,
    labels: Labels | None = None,
    temperature: ArrayLike = 1.0,
    given: Values | None = None,
    keep: Bool[Array, "..."] | Bool[np.ndarray, "..."] | None = None,
) -> Int[Array, "b h2 w2 c"]:
    """Maps of values, one per key; a site costs one site of every layer, a row one row.

    A map depends on its own key, label and given values, not on the others of the batch. Computed
    in float32 at full precision, whatever `module.dtype` is.

    Args:
        module, variables: the network.
        keys: one per map.
        height, width: of the maps; None is `module.map_size`.
        labels: a class per map, where the network has classes.
        temperature: 1 draws from the distribution, less from its likelier part, 0 takes the
            likeliest value at each step. Traced: another one does not compile again.
        given, keep: values [b, h, w, c] that stand already, and where; the rest is drawn in order,
            so that it follows from those before it.

    Raises:
        ValueError: labels that do not fit the network, a negative temperature, sides below 1, or
            given values of another shape or outside the levels.
    """
    return _checked(
        _sample, module, variables, keys, height, width, labels, temperature, given, keep
    )


def sample_by_full_forwards(
    module: PixelCNN,
    variables: Any,
    keys: Key[Array, "b"],
    *,
    height: int | None = None,
    width: int | None = None,
    labels: Labels | None = None,
    temperature: ArrayLike = 1.0,
    given: Values | None = None,
    keep: Bool[Array, "..."] | Bool[np.ndarray, "..."] | None = None,
) -> Int[Array, "b h2 w2 c"]:
    """The maps that `sample` draws, by a forward over the whole map for every value."""
    return _checked(
        _sample_slowly, module, variables, keys, height, width, labels, temperature, given, keep
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


def _checked(function, module, variables, keys, height, width, labels, temperature, given, keep):
    height, width = height or module.map_size, width or module.map_size
    if min(height, width) < 1:
        raise ValueError(f"maps of {height}x{width} cannot be drawn; sides are 1 or more")
    if not isinstance(temperature, jax.core.Tracer) and not np.all(np.asarray(temperature) >= 0):
        raise ValueError(f"temperature is {temperature}; expected 0 or more")
    batch = keys.shape[0]
    if not isinstance(labels, jax.core.Tracer):
        check_labels(module, labels, batch)
    shape = (batch, height, width, module.channels)
    if (given is None) != (keep is None):
        raise ValueError("`given` values need `keep`, which says where they stand, and it them")
    if given is None:
        given, keep = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool)
    for name, array in (("given", given), ("keep", keep)):
        if array.shape != shape:
            raise ValueError(f"`{name}` is {list(array.shape)}; these maps are {list(shape)}")
    if not isinstance(given, jax.core.Tracer):
        standing = np.asarray(given)[np.asarray(keep)]
        if standing.size and not 0 <= standing.min() <= standing.max() < module.levels:
            raise ValueError(
                f"given values are {standing.min()}..{standing.max()}; this network's are "
                f"0..{module.levels - 1}"
            )
    labels = None if labels is None else jnp.asarray(labels, jnp.int32)
    # The two ways multiply in another order: TensorFloat-32 or bfloat16 products would differ.
    module = module.clone(dtype=jnp.float32)
    with jax.default_matmul_precision("highest"):
        return function(
            module,
            variables,
            keys,
            labels,
            jnp.asarray(temperature, jnp.float32),
            jnp.asarray(given, jnp.int32),
            jnp.asarray(keep),
        )


def _noise(keys: Key[Array, "b"], place: Int[Array, ""], levels: int) -> Float[Array, "b k"]:
    """Gumbel noise of the value at a place, counted through the map, for every map."""
    return jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, place), (levels,)))(keys)


def _draw(logits, keys, place, temperature, given, keep):
    noisy = logits + temperature * _noise(keys, place, logits.shape[-1])
    return jnp.where(keep, given, jnp.argmax(noisy, axis=-1).astype(jnp.int32))


@partial(jax.jit, static_argnums=0)
def _sample(module, variables, keys, labels, temperature, given, keep):
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
                temperature,
                given[:, channel],
                keep[:, channel],
            )
            values = values.at[:, channel].set(drawn)
        return _with_values(call, kept, sites, values), values

    def row(rows, inputs):
        places, given, keep = inputs
        rows, contexts = call("next_row", rows, labels)
        columns = [context.swapaxes(0, 1) for context in contexts]
        inputs = (tuple(columns), places, given.swapaxes(0, 1), keep.swapaxes(0, 1))
        _, values = jax.lax.scan(site, call("empty_sites", batch), inputs)
        values = values.swapaxes(0, 1)
        return _with_values(call, rows, rows, values), values

    places = jnp.arange(height * width).reshape(height, width)
    inputs = (places, given.swapaxes(0, 1), keep.swapaxes(0, 1))
    _, values = jax.lax.scan(row, call("empty_rows", batch, width), inputs)
    return values.swapaxes(0, 1)


def _with_values(call, new, old, values):
    """The caches `new` with drawn values behind those that the first layer's `old` holds."""
    first = jnp.concatenate([old[0][:, 1:], call("embedded", values)[:, None]], axis=1)
    return (first, *new[1:])


@partial(jax.jit, static_argnums=0)
def _sample_slowly(module, variables, keys, labels, temperature, given, keep):
    shape = given.shape

    def flat(x):
        return x.reshape(shape[0], -1, *x.shape[4:])

    def step(place, values):
        logits = flat(module.apply(variables, values.reshape(shape), labels))
        at = partial(jax.lax.dynamic_index_in_dim, index=place, axis=1, keepdims=False)
        drawn = _draw(at(logits), keys, place, temperature, at(flat(given)), at(flat(keep)))
        return jax.lax.dynamic_update_index_in_dim(values, drawn, place, axis=1)

    start = flat(jnp.where(keep, given, 0))
    return jax.lax.fori_loop(0, start.shape[1], step, start).reshape(shape)
