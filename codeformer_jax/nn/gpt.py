"""Causal transformer over code sequences: the prior of VQGAN (arXiv 2012.09841, section 3.2).

A sequence is `condition_length` condition tokens, then the codes of a map row by row. Both share
one vocabulary. Position t predicts token t + 1.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from codeformer_jax.nn.layers import LayerNorm, sum_dtype, wide_dot_general
from codeformer_jax.nn.remat import check_policy, rematted
from codeformer_jax.ops.checks import AnyArray, as_integers

CONDITIONS = ("start", "class", "codes")
_INIT = nn.initializers.normal(0.02)
_MASKED = -1e30

Past = tuple[Float[Array, "bh capacity e"], Float[Array, "bh capacity e"]]
DropoutKeys = Key[Array, "b"] | None


@flax.struct.dataclass
class Cache:
    """Keys and values of the tokens so far, a pytree of arrays (or of their shapes).

    Attributes:
        layers: keys and values [b * heads, capacity, d / heads] of each layer; entries after
            `length` are not read. Batch and heads share an axis, since with a separate axis of size
            one XLA's CPU compiler copies the cache eight times per token.
        length: number of tokens, int32.
    """

    layers: tuple[Any, ...]
    length: Any


def dropout(
    x: Float[Array, "b *s"], rate: float, keys: DropoutKeys, index: int
) -> Float[Array, "b *s"]:
    """Zeroes elements and scales the others by 1 / (1 - rate).

    Args:
        x: [b, ...].
        rate: probability of a zero.
        keys: one key per row; None returns `x`.
        index: number of this place in the network, which separates its draws from others.
    """
    if keys is None or rate == 0.0:
        return x

    def kept(key):
        return jax.random.bernoulli(jax.random.fold_in(key, index), 1 - rate, x.shape[1:])

    return jnp.where(jax.vmap(kept)(keys), x / (1 - rate), jnp.zeros((), x.dtype))


class CausalAttention(nn.Module):
    """Multi-head attention of each token to itself and earlier tokens.

    The first `n_unmasked` tokens attend to each other. With `past`, one token at `position` is
    added to its keys and values.
    """

    n_head: int
    n_unmasked: int
    rate: float
    index: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        past: Past | None,
        position: Int[Array, ""] | None,
        dropout_keys: DropoutKeys,
    ) -> tuple[Float[Array, "b n d"], Past]:
        b, n, d = x.shape
        queries, keys, values = (
            _split_heads(_dense(d, self.dtype, name)(x), self.n_head)
            for name in ("query", "key", "value")
        )
        if past is None:
            known = jnp.arange(n) < self.n_unmasked
            mask = jnp.tril(jnp.ones((n, n), bool)) | (known[:, None] & known[None, :])
        else:
            zero = jnp.zeros_like(position)
            start = (zero, position, zero)
            keys, values = (
                jax.lax.dynamic_update_slice(whole, new, start)
                for whole, new in zip(past, (keys, values), strict=True)
            )
            mask = (jnp.arange(keys.shape[1]) <= position)[None, :]
        weights = _attention_weights(queries, keys, mask)
        kept = dropout(
            weights.reshape(b, self.n_head, n, -1), self.rate, dropout_keys, 3 * self.index + 1
        )
        y = jnp.einsum("hqk,hkd->hqd", kept.reshape(weights.shape).astype(self.dtype), values)
        y = y.reshape(b, self.n_head, n, -1).transpose(0, 2, 1, 3).reshape(b, n, d)
        y = _dense(d, self.dtype, "proj")(y)
        return dropout(y, self.rate, dropout_keys, 3 * self.index + 2), (keys, values)


def _dense(features: int, dtype: DTypeLike, name: str, *, use_bias: bool = True) -> nn.Dense:
    return nn.Dense(features, use_bias=use_bias, kernel_init=_INIT, dtype=dtype, name=name)


def _split_heads(x: Float[Array, "b n d"], heads: int) -> Float[Array, "bh n e"]:
    b, n, _ = x.shape
    return x.reshape(b, n, heads, -1).transpose(0, 2, 1, 3).reshape(b * heads, n, -1)


def _attention_weights(
    queries: Float[Array, "bh q e"], keys: Float[Array, "bh k e"], mask: Bool[Array, "#q k"]
) -> Float[Array, "bh q k"]:
    """Returns softmax(q k^T / sqrt(e)) over the unmasked keys, in float32."""
    wide = sum_dtype(queries.dtype)
    scores = jnp.einsum("hqd,hkd->hqk", queries, keys, preferred_element_type=wide)
    scores = scores / jnp.sqrt(jnp.asarray(queries.shape[-1], wide))
    return jax.nn.softmax(jnp.where(mask[None], scores, _MASKED), axis=-1)


class Block(nn.Module):
    """Pre-norm block: attention, then an MLP of four times the width with exact GELU."""

    n_head: int
    n_unmasked: int
    rate: float
    index: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        past: Past | None = None,
        position: Int[Array, ""] | None = None,
        dropout_keys: DropoutKeys = None,
    ) -> tuple[Float[Array, "b n d"], Past]:
        width = x.shape[-1]
        attention = CausalAttention(
            self.n_head, self.n_unmasked, self.rate, self.index, self.dtype, name="attn"
        )
        y = LayerNorm(dtype=self.dtype, name="ln1")(x)
        y, past = attention(y, past, position, dropout_keys)
        x = x + y
        y = LayerNorm(dtype=self.dtype, name="ln2")(x)
        y = nn.gelu(_dense(4 * width, self.dtype, "mlp_0")(y), approximate=False)
        y = _dense(width, self.dtype, "mlp_2")(y)
        return x + dropout(y, self.rate, dropout_keys, 3 * self.index + 3), past


class GPT(nn.Module):
    """Causal transformer; tokens int32 [b, n] in [0, vocab_size), n <= block_size.

    The defaults are the published prior of faces; ImageNet's has 48 layers, 24 heads, width 1536.

    Attributes:
        vocab_size: number of tokens; codes and conditions share their embeddings.
        block_size: length of the longest sequence.
        n_layer, n_head, n_embd: layers, heads, width.
        dropout: dropout rate of embeddings, attention and both branches, if keys are given.
        condition: tokens before the codes: 'start' (token 0), 'class' (the class number) or
            'codes' (`condition_length` codes of another map).
        classes: number of classes with condition 'class', else 0.
        condition_length: number of condition tokens; 1 except with 'codes'.
        n_unmasked: number of first tokens that also attend to later ones among them, as the
            conditions of some published priors do; at most `condition_length` for sampling.
        map_size: rows and columns of the training maps; larger maps are sampled through a window
            of this size.
        dtype: dtype of the computation; parameters, softmax, norms and logits are float32.
        remat: activations that the backward pass recomputes, see `remat.rematted`.

    Raises:
        ValueError: at construction, for sizes that do not fit together.
    """

    vocab_size: int = 1024
    block_size: int = 512
    n_layer: int = 24
    n_head: int = 16
    n_embd: int = 1024
    dropout: float = 0.0
    condition: str = "start"
    classes: int = 0
    condition_length: int = 1
    n_unmasked: int = 0
    map_size: Sequence[int] = (16, 16)
    dtype: DTypeLike = jnp.float32
    remat: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "map_size", tuple(self.map_size))
        self._check()
        super().__post_init__()

    def _check(self):
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "condition_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd={self.n_embd} does not divide into n_head={self.n_head}")
        if not 0 <= self.n_unmasked <= self.block_size:
            raise ValueError(
                f"n_unmasked={self.n_unmasked}; expected 0 to block_size={self.block_size}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1); got {self.dropout}")
        if len(self.map_size) != 2 or min(self.map_size) < 1:
            raise ValueError(f"map_size must be rows and columns of codes; got {self.map_size}")
        if self.condition not in CONDITIONS:
            raise ValueError(
                f"condition is {self.condition!r}; expected one of {', '.join(CONDITIONS)}"
            )
        if (self.condition == "class") != (self.classes > 0) or self.classes > self.vocab_size:
            raise ValueError(
                f"classes={self.classes} with condition={self.condition!r} and vocab_size="
                f"{self.vocab_size}: a condition 'class' needs 1 to vocab_size classes, any other 0"
            )
        if self.condition != "codes" and self.condition_length != 1:
            raise ValueError(
                f"condition_length={self.condition_length} with condition={self.condition!r}, "
                "which is a single token; set it to 1, or condition to 'codes'"
            )
        if self.sequence_length > self.block_size:
            raise ValueError(
                f"block_size={self.block_size} is too short for {self.condition_length} condition "
                f"tokens and a map of {self.map_size[0]}x{self.map_size[1]} codes, which take "
                f"{self.sequence_length}; change block_size, map_size or condition_length"
            )
        check_policy(self.remat)

    @property
    def sequence_length(self) -> int:
        """Number of input tokens for a map; the last code is only predicted."""
        return self.condition_length + self.map_size[0] * self.map_size[1] - 1

    def empty_cache(self, batch: int, capacity: int) -> Cache:
        """Returns a cache without tokens.

        Args:
            batch: number of sequences.
            capacity: largest number of tokens.
        """
        shape = (batch * self.n_head, capacity, self.n_embd // self.n_head)
        past = (jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype))
        return Cache(layers=(past,) * self.n_layer, length=jnp.zeros((), jnp.int32))

    def setup(self):
        self.tok_emb = self.param("tok_emb", _INIT, (self.vocab_size, self.n_embd), jnp.float32)
        self.pos_emb = self.param(
            "pos_emb", nn.initializers.zeros, (1, self.block_size, self.n_embd), jnp.float32
        )
        block = rematted(Block, self.remat)
        self.blocks = [
            block(self.n_head, self.n_unmasked, self.dropout, index, self.dtype)
            for index in range(self.n_layer)
        ]
        self.ln_f = LayerNorm(dtype=self.dtype)
        self.head = nn.Dense(
            self.vocab_size,
            use_bias=False,
            kernel_init=_INIT,
            dtype=self.dtype,
            dot_general=wide_dot_general,
        )

    def __call__(
        self, tokens: AnyArray, *, dropout_keys: DropoutKeys = None
    ) -> Float[Array, "b n k"]:
        """Returns the logits of the token after each one.

        Args:
            tokens: integers [b, n].
            dropout_keys: one typed key per row, [b]; None disables dropout.

        Raises:
            ValueError, TypeError: for tokens of another form; the message says what to pass.
        """
        tokens = as_integers(tokens, "tokens", ("batch", "length"))
        x, _ = self._forward(tokens, dropout_keys)
        return self._logits(x)

    def code_logits(
        self,
        condition: AnyArray,
        codes: AnyArray,
        *,
        dropout_keys: DropoutKeys = None,
    ) -> Float[Array, "b n k"]:
        """Returns logits of every code given condition and earlier codes; `method='code_logits'`.

        Args:
            condition: integers [b, m].
            codes: integers [b, n].
            dropout_keys: see `__call__`.
        """
        condition = as_integers(condition, "condition", ("batch", "length"))
        codes = as_integers(codes, "codes", ("batch", "length"))
        tokens = jnp.concatenate([condition, codes], axis=1)[:, :-1]
        return self(tokens, dropout_keys=dropout_keys)[:, condition.shape[1] - 1 :]

    def prefill(
        self, tokens: Int[Array, "b n"], length: Int[Array, ""], capacity: int
    ) -> tuple[Float[Array, "b k"], Cache]:
        """Returns the logits after the first `length` tokens, and their cache; `method='prefill'`.

        Args:
            tokens: integers [b, n]; tokens from `length` on are ignored.
            length: 1 to n; traced.
            capacity: capacity of the cache, at least n.
        """
        x, pasts = self._forward(tokens, None)
        room = ((0, 0), (0, capacity - tokens.shape[1]), (0, 0))
        layers = tuple((jnp.pad(keys, room), jnp.pad(values, room)) for keys, values in pasts)
        last = jax.lax.dynamic_index_in_dim(x, length - 1, axis=1)
        return self._logits(last)[:, 0], Cache(layers=layers, length=length)

    def step(self, token: Int[Array, "b"], cache: Cache) -> tuple[Float[Array, "b k"], Cache]:
        """Returns the logits after one more token, and the cache with it; `method='step'`.

        Args:
            token: next token of each sequence, [b].
            cache: cache of the tokens before.
        """
        position = jax.lax.dynamic_slice_in_dim(self.pos_emb, cache.length, 1, axis=1)
        x = (self.tok_emb[token][:, None] + position).astype(self.dtype)
        layers = []
        for block, past in zip(self.blocks, cache.layers, strict=True):
            x, past = block(x, past, cache.length, None)  # noqa: PLW2901
            layers.append(past)
        return self._logits(x)[:, 0], Cache(layers=tuple(layers), length=cache.length + 1)

    def _forward(
        self, tokens: Int[Array, "b n"], dropout_keys: DropoutKeys
    ) -> tuple[Float[Array, "b n d"], list[Past]]:
        n = tokens.shape[1]
        if n > self.block_size:
            raise ValueError(
                f"a sequence of {n} tokens is longer than block_size={self.block_size}, for which "
                "there are positions; give fewer"
            )
        x = (self.tok_emb[tokens] + self.pos_emb[:, :n]).astype(self.dtype)
        x = dropout(x, self.dropout, dropout_keys, 0)
        pasts = []
        for block in self.blocks:
            x, past = block(x, None, None, dropout_keys)
            pasts.append(past)
        return x, pasts

    def _logits(self, x: Float[Array, "b n d"]) -> Float[Array, "b n k"]:
        return self.head(self.ln_f(x))
