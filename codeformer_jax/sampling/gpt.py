"""Maps of codes from a `GPT`, sampled in one compiled loop with a cache of keys and values.

A map of the trained size is one prefill and a scan of one-token steps. A window slides over a
larger map: while it stands still, at the borders, a site costs one token. Where it moves, all
positions in it change, and its tokens are computed again.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from codeformer_jax.nn import GPT, Cache, transpose_kernels, with_transposed_kernels
from codeformer_jax.ops.checks import AnyArray, as_keys
from codeformer_jax.sampling.sampler import Sampler, check_known, sample_codes

Variables = Any
Condition = Int[Array, "b m"] | Int[Array, "b h w"]
Step = Callable[[Int[Array, "b"], Cache], tuple[Float[Array, "b k"], Cache]]


@flax.struct.dataclass
class Sites:
    """Sites of a map in sampling order, row by row: arrays [n], or scalars inside a scan.

    Attributes:
        site: int32, index of the site in the map, row-major.
        top, left: int32, first row and column of the site's window.
        target: int32, index of the site in its window, row-major.
        moved: whether the window differs from that of the site before.
    """

    site: Any
    top: Any
    left: Any
    target: Any
    moved: Any


def plan_windows(size: tuple[int, int], window: tuple[int, int]) -> Sites:
    """Centres the window on each site; at the borders of the map it stops.

    Args:
        size: rows and columns of the map.
        window: rows and columns of the window.

    Returns:
        All size[0] * size[1] sites.

    Raises:
        ValueError: if the map is smaller than the window.
    """
    if size[0] < window[0] or size[1] < window[1]:
        raise ValueError(
            f"a map of {size[0]}x{size[1]} codes is smaller than the {window[0]}x{window[1]} that "
            "this prior was trained on; sample at least that and cut it"
        )
    rows, columns = np.indices(size).reshape(2, -1)
    top = np.clip(rows - window[0] // 2, 0, size[0] - window[0])
    left = np.clip(columns - window[1] // 2, 0, size[1] - window[1])
    moved = np.ones(len(rows), bool)
    moved[1:] = (np.diff(top) != 0) | (np.diff(left) != 0)
    target = (rows - top) * window[1] + columns - left
    places = (np.arange(rows.size), top, left, target)
    return Sites(*(place.astype(np.int32) for place in places), moved)


def sample_gpt(
    module: GPT,
    variables: Variables,
    keys: AnyArray,
    condition: Condition | np.ndarray,
    *,
    size: tuple[int, int] | None = None,
    sampler: Sampler | None = None,
    known: Int[Array, "b h w"] | np.ndarray | None = None,
    known_mask: np.ndarray | None = None,
    cache: bool = True,
) -> Int[Array, "b h w"]:
    """Samples maps of codes row by row.

    Args:
        module, variables: the prior.
        keys: one per sample; a sample does not depend on the rest of the batch.
        condition: tokens from `start_tokens`, `class_tokens` or `code_tokens`.
        size: rows and columns of codes, at least `module.map_size`, which is the default.
        sampler: temperature, top-k, top-p; default temperature 1.
        known: codes [b, h, w] to keep where `known_mask` is True.
        known_mask: bool [h, w]. A site sees only the known codes before it, row-major.
        cache: False computes a full forward for every token. The codes are the same.

    Returns:
        Codes [b, h, w].

    Raises:
        ValueError: if sizes, condition or settings do not fit the prior.
    """
    if module.n_unmasked > module.condition_length:
        raise ValueError(
            f"n_unmasked={module.n_unmasked} lets codes see later ones, and only the first "
            f"{module.condition_length} tokens are known in advance: it cannot be sampled"
        )
    sampler, size = sampler or Sampler(), tuple(size or module.map_size)
    sampler.check(module.vocab_size)
    keys = as_keys(keys, keys.size if keys.ndim < 2 else len(keys), "sample")
    sites = plan_windows(size, module.map_size)
    _check_condition(module, condition, keys.shape[0], size)
    known, mask = check_known(known, known_mask, (keys.shape[0], *size), module.vocab_size)
    mask = mask.reshape(-1)
    if mask.all():
        return jnp.asarray(known)
    first = int(np.argmin(mask))  # All known sites before the first sampled one are prefilled.
    sites, mask = jax.tree.map(lambda x: x[first:].copy(), (sites, mask))
    sites.moved[0] = True
    condition, known = jnp.asarray(condition), jnp.asarray(known)
    arguments = (module, variables, keys, condition, known, sites, mask, sampler)
    if not cache:
        return _sample_fully(*arguments)
    if size == module.map_size:
        return _sample_map(*arguments, first=first)
    return _sample_windows(*arguments)


@functools.partial(jax.jit, static_argnames=("module", "first"))
def _sample_map(module, variables, keys, condition, known, sites, mask, sampler, *, first):
    """Samples by one prefill and a scan of one-token steps: the map is as large as the window."""
    batch, height, width = known.shape
    known = known.reshape(batch, -1)
    prefix = jnp.concatenate([condition.reshape(batch, -1), known[:, :first]], axis=1)
    logits, cache = _prefill(module, variables, prefix, jnp.int32(prefix.shape[1]))
    code = sample_codes(logits, keys, sites.site[0], sampler)
    step = token_step(module, variables)

    def body(carry, inputs):
        code, cache = carry
        site, is_known, value = inputs
        logits, cache = step(code, cache)
        code = jnp.where(is_known, value, sample_codes(logits, keys, site, sampler))
        return (code, cache), code

    rest = (sites.site[1:], mask[1:], known.T[first + 1 :])
    _, codes = jax.lax.scan(body, (code, cache), rest)
    codes = jnp.concatenate([known[:, :first], code[:, None], codes.T], axis=1)
    return codes.reshape(batch, height, width)


@functools.partial(jax.jit, static_argnames="module")
def _sample_windows(module, variables, keys, condition, known, sites, mask, sampler):
    """Samples by a scan over sites: a one-token step, or a prefill where the window has moved."""
    rows, columns = module.map_size
    # Middle rows need only the upper half of the window: two lengths are compiled.
    lengths = sorted({(row * columns + module.condition_length) for row in (rows // 2 + 1, rows)})

    def refill(codes, cache, site):
        tokens = _window_tokens(module, condition, codes, site)
        length = module.condition_length + site.target
        branches = [
            functools.partial(_prefill, module, variables, tokens[:, :n], length) for n in lengths
        ]
        which = jnp.searchsorted(jnp.array(lengths[:-1], jnp.int32), length)
        return jax.lax.switch(which, branches)

    step = token_step(module, variables)

    def advance(codes, cache, site):
        # The window has not moved: the site before is the token before.
        before = codes.reshape(codes.shape[0], -1)[:, site.site - 1]
        return step(before, cache)

    def body(carry, inputs):
        (codes, cache), (site, is_known) = carry, inputs
        logits, cache = jax.lax.cond(site.moved, refill, advance, codes, cache, site)
        return (_put(codes, logits, keys, site, is_known, sampler), cache), None

    empty = module.empty_cache(known.shape[0], module.sequence_length)
    (codes, _), _ = jax.lax.scan(body, (known, empty), (sites, mask))
    return codes


@functools.partial(jax.jit, static_argnames="module")
def _sample_fully(module, variables, keys, condition, known, sites, mask, sampler):
    """Samples by a full forward over the window for every site."""

    def body(codes, inputs):
        site, is_known = inputs
        tokens = _window_tokens(module, condition, codes, site)
        logits = module.apply(variables, tokens)
        at = module.condition_length + site.target - 1
        logits = jax.lax.dynamic_index_in_dim(logits, at, axis=1, keepdims=False)
        return _put(codes, logits, keys, site, is_known, sampler), None

    return jax.lax.scan(body, known, (sites, mask))[0]


def _prefill(
    module: GPT, variables: Variables, tokens: Int[Array, "b n"], length: Int[Array, ""]
) -> tuple[Float[Array, "b k"], Cache]:
    return module.apply(variables, tokens, length, module.sequence_length, method="prefill")


def _window_tokens(
    module: GPT, condition: Condition, codes: Int[Array, "b h w"], site: Sites
) -> Int[Array, "b n"]:
    """Returns condition and codes in the window of `site`, without the last code."""
    start = (jnp.zeros_like(site.top), site.top, site.left)
    extent = (codes.shape[0], *module.map_size)

    def cut(tokens):
        return jax.lax.dynamic_slice(tokens, start, extent).reshape(codes.shape[0], -1)

    before = cut(condition) if condition.ndim == 3 else condition
    return jnp.concatenate([before, cut(codes)[:, :-1]], axis=1)


def _put(codes, logits, keys, site, is_known, sampler):
    """Writes the code of a site into the map; a known one stays."""
    batch, _, width = codes.shape
    flat = codes.reshape(batch, -1)
    sampled = sample_codes(logits, keys, site.site, sampler)
    code = jnp.where(is_known, flat[:, site.site], sampled)
    return flat.at[:, site.site].set(code).reshape(batch, -1, width)


def token_step(module: GPT, variables: Variables) -> Step:
    """Returns the module's 'step' as a function of token and cache.

    Call it outside the loop over tokens. A step multiplies few vectors by a matrix, which on CPUs
    is bound by reading the weights: transposed once, they take 0.6 to 0.9 of the time. While maps
    are sampled, they are a second copy of the parameters.
    """

    def plain(token: Int[Array, "b"], cache: Cache) -> tuple[Float[Array, "b k"], Cache]:
        return module.apply(variables, token, cache, method="step")

    transposed = transpose_kernels(variables, module.dtype)

    def by_outputs(token: Int[Array, "b"], cache: Cache) -> tuple[Float[Array, "b k"], Cache]:
        with with_transposed_kernels():
            return module.apply(transposed, token, cache, method="step")

    def step(token: Int[Array, "b"], cache: Cache) -> tuple[Float[Array, "b k"], Cache]:
        return jax.lax.platform_dependent(token, cache, cpu=by_outputs, default=plain)

    return step


def _check_condition(module: GPT, condition: Any, batch: int, size: tuple[int, int]) -> None:
    expected = {(batch, module.condition_length)}
    if module.condition == "codes" and module.condition_length == np.prod(module.map_size):
        expected.add((batch, *size))
    if tuple(condition.shape) not in expected:
        shapes = " or ".join(str(list(shape)) for shape in sorted(expected))
        raise ValueError(
            f"the condition has shape {list(condition.shape)}; expected {shapes} for {batch} "
            f"samples of {size[0]}x{size[1]} codes by a prior with condition {module.condition!r}"
        )
    if len(expected) > 1 and size != module.map_size and condition.ndim == 2:
        raise ValueError(
            f"a map of {size[0]}x{size[1]} codes is sampled through a window, which also cuts the "
            f"condition: give it as [{batch}, {size[0]}, {size[1]}]"
        )
