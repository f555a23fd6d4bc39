"""Maps of codes from a `GPT`, in one compiled loop with a cache of keys and values.

A map as large as those of training is one prefill and then a scan of one-token steps. For a larger
one a window slides over it: while it stands still, at borders, a site costs one token, too; where
it moves all positions in it change and its tokens are computed again.
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from codeformer_jax.nn import GPT, Cache
from codeformer_jax.ops.checks import AnyArray, as_keys
from codeformer_jax.sampling.prefix import check_given
from codeformer_jax.sampling.sampler import Draw, draw_codes
from codeformer_jax.sampling.token import token_step
from codeformer_jax.sampling.window import plan_windows

Variables = Any
Condition = Int[Array, "b m"] | Int[Array, "b h w"]


@flax.struct.dataclass
class _Sites:
    """What the scan takes of each site, arrays [n], or of one, scalars; see `window.Plan`."""

    site: Any
    top: Any
    left: Any
    target: Any
    moved: Any
    keep: Any


def sample_gpt(
    module: GPT,
    variables: Variables,
    keys: AnyArray,
    condition: Condition | np.ndarray,
    *,
    size: tuple[int, int] | None = None,
    how: Draw | None = None,
    given: Int[Array, "b h w"] | np.ndarray | None = None,
    keep: np.ndarray | None = None,
    cache: bool = True,
) -> Int[Array, "b h w"]:
    """Samples maps of codes [b, h, w], row by row.

    Args:
        keys: one per sample: a sample does not depend on what else is in the batch.
        condition: tokens from `start_tokens`, `class_tokens` or `code_tokens`.
        size: rows and columns of codes, `module.map_size` or larger, the default being that.
        how: temperature, top-k, top-p.
        given, keep: codes [b, h, w], and a mask bool [h, w] of the sites where they are kept
            instead of sampled. A site sees kept ones before it only, row-major.
        cache: False computes a full forward for every token: the same codes, for comparison.

    Raises:
        ValueError: sizes, conditions or settings that do not fit the prior, naming both.
    """
    if module.n_unmasked > module.condition_length:
        raise ValueError(
            f"n_unmasked={module.n_unmasked} lets codes see later ones, but only the first "
            f"{module.condition_length} tokens are known beforehand: this is no prior to sample"
        )
    how, size = how or Draw(), tuple(size or module.map_size)
    how.check(module.vocab_size)
    keys = as_keys(keys, keys.size if keys.ndim < 2 else len(keys), "sample")
    plan = plan_windows(size, module.map_size)
    _check_condition(module, condition, keys.shape[0], size)
    shape = (keys.shape[0], *size)
    given, keep = check_given(given, keep, shape, module.vocab_size, ("codes", "prior"))
    keep = keep.reshape(-1)
    # All kept sites before the first sampled one are prefilled at once.
    first = int(np.argmin(keep)) if not keep.all() else keep.size
    if first == keep.size:
        return jnp.asarray(given)
    sites = _Sites(
        site=np.arange(keep.size, dtype=np.int32),
        top=plan.top,
        left=plan.left,
        target=plan.target,
        moved=plan.moved,
        keep=keep,
    )
    sites = jax.tree.map(lambda x: x[first:].copy(), sites)
    sites.moved[0] = True
    arguments = (module, variables, keys, jnp.asarray(condition), jnp.asarray(given), sites, how)
    if not cache:
        return _sample_fully(*arguments)
    if size == module.map_size:
        return _sample_map(*arguments, first=first)
    return _sample_windows(*arguments)


@functools.partial(jax.jit, static_argnames=("module", "first"))
def _sample_map(module, variables, keys, condition, given, sites, how, *, first):
    """One prefill, then a scan of one-token steps: the map is as large as the window."""
    batch, height, width = given.shape
    given = given.reshape(batch, -1)
    prefix = jnp.concatenate([condition.reshape(batch, -1), given[:, :first]], axis=1)
    logits, cache = _prefill(module, variables, prefix, jnp.int32(prefix.shape[1]))
    code = draw_codes(logits, keys, sites.site[0], how)
    step = token_step(module, variables)

    def body(carry, inputs):
        code, cache = carry
        site, keep, kept = inputs
        logits, cache = step(code, cache)
        code = jnp.where(keep, kept, draw_codes(logits, keys, site, how))
        return (code, cache), code

    rest = (sites.site[1:], sites.keep[1:], given.T[first + 1 :])
    _, codes = jax.lax.scan(body, (code, cache), rest)
    codes = jnp.concatenate([given[:, :first], code[:, None], codes.T], axis=1)
    return codes.reshape(batch, height, width)


@functools.partial(jax.jit, static_argnames="module")
def _sample_windows(module, variables, keys, condition, given, sites, how):
    """A scan over sites: a one-token step, or a prefill where the window has moved."""
    rows, columns = module.map_size
    # The middle rows need what lies above the middle of the window only: two lengths are compiled.
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
        # The window stands where it stood: the site before is the token before.
        before = codes.reshape(codes.shape[0], -1)[:, site.site - 1]
        return step(before, cache)

    def body(carry, site):
        codes, cache = carry
        logits, cache = jax.lax.cond(site.moved, refill, advance, codes, cache, site)
        return (_put(codes, logits, keys, site, how), cache), None

    empty = module.empty_cache(given.shape[0], module.sequence_length)
    (codes, _), _ = jax.lax.scan(body, (given, empty), sites)
    return codes


@functools.partial(jax.jit, static_argnames="module")
def _sample_fully(module, variables, keys, condition, given, sites, how):
    """A full forward over the window for every site."""

    def body(codes, site):
        tokens = _window_tokens(module, condition, codes, site)
        logits = module.apply(variables, tokens)
        at = module.condition_length + site.target - 1
        logits = jax.lax.dynamic_index_in_dim(logits, at, axis=1, keepdims=False)
        return _put(codes, logits, keys, site, how), None

    return jax.lax.scan(body, given, sites)[0]


def _prefill(
    module: GPT, variables: Variables, tokens: Int[Array, "b n"], length: Int[Array, ""]
) -> tuple[Float[Array, "b k"], Cache]:
    return module.apply(variables, tokens, length, module.sequence_length, method="prefill")


def _window_tokens(
    module: GPT, condition: Condition, codes: Int[Array, "b h w"], site: _Sites
) -> Int[Array, "b n"]:
    """Condition and codes under the window of `site`, but for the last one, which predicts none."""
    start = (jnp.zeros_like(site.top), site.top, site.left)
    extent = (codes.shape[0], *module.map_size)

    def cut(tokens):
        return jax.lax.dynamic_slice(tokens, start, extent).reshape(codes.shape[0], -1)

    before = cut(condition) if condition.ndim == 3 else condition
    return jnp.concatenate([before, cut(codes)[:, :-1]], axis=1)


def _put(codes, logits, keys, site, how):
    """The map with the site's code: drawn, or what stands there where it is kept."""
    batch, _, width = codes.shape
    flat = codes.reshape(batch, -1)
    drawn = jnp.where(site.keep, flat[:, site.site], draw_codes(logits, keys, site.site, how))
    return flat.at[:, site.site].set(drawn).reshape(batch, -1, width)


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
            f"a map of {size[0]}x{size[1]} codes is sampled through a window, under which the "
            f"condition must lie: give it as [{batch}, {size[0]}, {size[1]}]"
        )
