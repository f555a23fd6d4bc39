"""Causality, cache, dropout and settings of the transformer prior."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.nn import GPT

TINY = {
    "vocab_size": 11,
    "block_size": 12,
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 8,
    "map_size": (3, 4),
}
TOKENS = jnp.array([[1, 5, 2, 9, 0, 3, 7], [4, 4, 10, 8, 6, 1, 0]])


def make(**fields):
    """A tiny GPT whose parameters are large enough for every token to matter."""
    module = GPT(**{**TINY, **fields})
    shapes = jax.eval_shape(module.init, jax.random.key(0), TOKENS)
    rng = np.random.RandomState(0)
    return module, jax.tree.map(
        lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), shapes
    )


@pytest.mark.parametrize("n_unmasked", [0, 3])
def test_a_token_sees_exactly_those_before_it_and_the_unmasked(n_unmasked):
    module, variables = make(n_unmasked=n_unmasked)
    embeddings = variables["params"]["tok_emb"]

    @jax.jit
    def sensitivity(positions):
        # Logits of every token, by the embedding of every token's position.
        def logits(positions):
            changed = {**variables["params"], "pos_emb": positions[None]}
            return module.apply({"params": changed}, TOKENS[:1])[0]

        return jnp.abs(jax.jacrev(logits)(positions)).sum((1, 3))

    n = TOKENS.shape[1]
    seen = np.asarray(sensitivity(variables["params"]["pos_emb"][0]))[:, :n] > 0
    expected = np.tri(n, dtype=bool)
    expected[:n_unmasked, :n_unmasked] = True
    np.testing.assert_array_equal(seen, expected)
    assert embeddings.shape == (11, 8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cached_steps_are_the_full_forward(dtype):
    module, variables = make(dtype=jnp.dtype(dtype))
    full = jax.jit(module.apply)(variables, TOKENS)
    assert full.dtype == jnp.float32
    prefill = jax.jit(functools.partial(module.apply, method="prefill"), static_argnums=3)
    step = jax.jit(functools.partial(module.apply, method="step"))
    tolerance = {"float32": 1e-5, "bfloat16": 0.1}[dtype] * float(jnp.abs(full).max())
    # What lies behind the length must not be read.
    for length in (1, 3):
        logits, cache = prefill(variables, TOKENS[:, :5], jnp.int32(length), 10)
        np.testing.assert_allclose(logits, full[:, length - 1], rtol=0, atol=tolerance)
        for position in range(length, TOKENS.shape[1]):
            logits, cache = step(variables, TOKENS[:, position], cache)
            np.testing.assert_allclose(logits, full[:, position], rtol=0, atol=tolerance)
        assert int(cache.length) == TOKENS.shape[1]


def test_dropout_needs_keys_and_depends_on_the_row_alone():
    module, variables = make(dropout=0.5)
    apply = jax.jit(module.apply)
    plain = apply(variables, TOKENS)
    np.testing.assert_array_equal(plain, jax.jit(make()[0].apply)(variables, TOKENS))
    keys = jax.random.split(jax.random.key(1), 2)
    dropped = apply(variables, TOKENS, dropout_keys=keys)
    assert not np.allclose(dropped, plain)
    swapped = apply(variables, TOKENS[::-1], dropout_keys=keys[::-1])
    np.testing.assert_allclose(swapped[::-1], dropped, rtol=1e-5, atol=1e-5)


def test_remat_changes_no_value():
    module, variables = make()

    def gradients(module):
        return jax.jit(jax.grad(lambda v: jnp.square(module.apply(v, TOKENS)).mean()))(variables)

    for a, b in zip(
        jax.tree.leaves(gradients(module)),
        jax.tree.leaves(gradients(module.clone(remat="full"))),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_published_sizes_and_initial_values():
    module = GPT()
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), tokens)["params"]
    count = sum(np.prod(x.shape) for x in jax.tree.leaves(shapes))
    # 24 blocks of 12 d^2 + 13 d, embeddings, positions and head of 1024, 512 and 1024 rows.
    d = 1024
    assert count == 24 * (12 * d**2 + 13 * d) + (1024 + 512 + 1024) * d + 2 * d
    fresh = GPT(**{**TINY, "vocab_size": 4000}).init(jax.random.key(0), TOKENS)["params"]
    assert float(jnp.std(fresh["tok_emb"])) == pytest.approx(0.02, rel=0.05)
    assert not fresh["pos_emb"].any()
    assert not fresh["blocks_0"]["attn"]["key"]["bias"].any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_head": 3}, "n_embd=8 does not divide into n_head=3"),
        ({"n_layer": 0}, "n_layer must be positive; got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\); got 1.0"),
        ({"condition": "text"}, "'text'; expected one of start, class, codes"),
        ({"condition": "class"}, "classes=0 with condition='class'"),
        ({"classes": 3}, "classes=3 with condition='start'"),
        ({"condition": "class", "classes": 12}, "classes=12 .* vocab_size=11"),
        ({"condition_length": 2}, "condition_length=2 with condition='start'"),
        ({"map_size": (4, 4)}, "block_size=12 is too short .* 4x4 codes, which take 16"),
        ({"map_size": (3,)}, r"rows and columns of codes; got \(3,\)"),
        ({"n_unmasked": 13}, "n_unmasked=13; expected 0 to block_size=12"),
        ({"remat": "some"}, "remat is 'some'"),
    ],
)
def test_impossible_settings(fields, message):
    with pytest.raises(ValueError, match=message):
        GPT(**{**TINY, **fields})


def test_a_sequence_without_positions():
    module, variables = make()
    with pytest.raises(ValueError, match="13 tokens is longer than block_size=12"):
        module.apply(variables, jnp.zeros((1, 13), jnp.int32))
