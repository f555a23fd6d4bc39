"""Sampling with the cache against a full forward per token, on the same noise."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.nn import GPT
from codeformer_jax.sampling import (
    Sampler,
    class_tokens,
    code_tokens,
    gpt,
    sample_gpt,
    start_tokens,
)

TINY = {
    "vocab_size": 13,
    "block_size": 34,
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 16,
    "map_size": (4, 4),
}
KINDS = {
    "start": {},
    "class": {"condition": "class", "classes": 5},
    "codes": {"condition": "codes", "condition_length": 3, "n_unmasked": 3},
    "map": {"condition": "codes", "condition_length": 16},
}
BATCH = 3
KEYS = jax.random.split(jax.random.key(7), BATCH)


@pytest.fixture(scope="module")
def prior():
    """kind -> (module, variables); parameters large enough for every token to matter."""
    rng = np.random.RandomState(0)
    shapes = jax.eval_shape(GPT(**TINY).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    variables = jax.tree.map(
        lambda x: jnp.asarray(0.5 * rng.standard_normal(x.shape), x.dtype), shapes
    )
    return lambda kind: (GPT(**TINY, **KINDS[kind]), variables)


def condition_of(kind, module, size, batch=BATCH):
    rng = np.random.RandomState(3)
    if kind == "start":
        return start_tokens(module, batch)
    if kind == "class":
        return class_tokens(module, range(batch))
    shape = (batch, 3) if kind == "codes" else (batch, *size)
    return code_tokens(module, rng.randint(0, 13, shape))


@pytest.mark.parametrize("size", [(4, 4), (6, 7)])
@pytest.mark.parametrize("kind", KINDS)
def test_cached_codes_are_those_of_full_forwards(kind, size, prior):
    module, variables = prior(kind)
    condition = condition_of(kind, module, size)
    options = {"size": size, "sampler": Sampler(temperature=0.9, top_k=9, top_p=0.95)}
    sampled, full = (
        np.asarray(sample_gpt(module, variables, KEYS, condition, **options, cache=cache))
        for cache in (True, False)
    )
    assert sampled.shape == (BATCH, *size)
    np.testing.assert_array_equal(sampled, full)
    assert len({tuple(row.reshape(-1)) for row in sampled}) == BATCH
    # The condition matters: another one gives other codes.
    if kind != "start":
        other = (condition + 1) % 5
        assert np.any(sampled != sample_gpt(module, variables, KEYS, other, **options))


def test_full_forwards_against_a_plain_loop(prior):
    """Site by site, in NumPy, but for the network and the noise."""
    module, variables = prior("map")
    size = (5, 6)
    condition = condition_of("map", module, size, batch=1)
    apply = jax.jit(module.apply)
    codes = np.full(size, 12)  # Any code at sites that are not sampled yet.
    for i in range(size[0]):
        for j in range(size[1]):
            li = i if i <= 2 else 4 - (size[0] - i) if size[0] - i < 2 else 2
            lj = j if j <= 2 else 4 - (size[1] - j) if size[1] - j < 2 else 2
            window = np.s_[i - li : i - li + 4, j - lj : j - lj + 4]
            tokens = np.concatenate([condition[0][window].ravel(), codes[window].ravel()])[:-1]
            logits = np.asarray(apply(variables, jnp.asarray(tokens)[None]))[0, -16:]
            key = jax.random.fold_in(KEYS[0], i * size[1] + j)
            noise = np.asarray(jax.random.gumbel(key, (13,), jnp.float32))
            codes[i, j] = np.argmax(logits.reshape(4, 4, 13)[li, lj] + noise)
    for cache in (True, False):
        found = sample_gpt(module, variables, KEYS[:1], condition, size=size, cache=cache)
        np.testing.assert_array_equal(found[0], codes)


@pytest.mark.parametrize("size", [(4, 4), (6, 5)])
def test_known_codes_are_kept_and_continued(size, prior):
    module, variables = prior("class")
    condition = class_tokens(module, [4, 0, 1])
    whole = np.asarray(sample_gpt(module, variables, KEYS, condition, size=size))
    top = np.zeros(size, bool)
    top[:2] = True
    hole = ~np.eye(*size, dtype=bool)
    for mask in (top, hole):
        # With its own codes known, the same noise samples the same rest.
        options = {"size": size, "known_mask": mask}
        again = sample_gpt(module, variables, KEYS, condition, **options, known=whole)
        np.testing.assert_array_equal(again, whole)
        other = (whole + 1) % 13
        found, full = (
            np.asarray(
                sample_gpt(module, variables, KEYS, condition, **options, known=other, cache=cache)
            )
            for cache in (True, False)
        )
        np.testing.assert_array_equal(found, full)
        np.testing.assert_array_equal(found[:, mask], other[:, mask])
        assert np.any(found[:, ~mask] != whole[:, ~mask])
    options = {"size": size, "known_mask": np.ones(size, bool)}
    same = sample_gpt(module, variables, KEYS, condition, **options, known=whole)
    np.testing.assert_array_equal(same, whole)


def test_a_sample_does_not_depend_on_its_batch(prior):
    module, variables = prior("class")
    condition = class_tokens(module, [1, 2, 3])
    together = np.asarray(sample_gpt(module, variables, KEYS, condition))
    alone = sample_gpt(module, variables, KEYS[1:2], condition[1:2])
    np.testing.assert_array_equal(alone[0], together[1])


def test_another_temperature_does_not_compile_again(prior):
    module, variables = prior("start")
    condition = start_tokens(module, BATCH)
    sample_gpt(module, variables, KEYS, condition, sampler=Sampler(temperature=1.0, top_p=0.9))
    compiled = gpt._sample_map._cache_size()
    assert compiled
    sample_gpt(module, variables, KEYS, condition, sampler=Sampler(temperature=0.5, top_p=0.8))
    assert gpt._sample_map._cache_size() == compiled


@pytest.mark.parametrize(("size", "batch"), [((4, 4), 1), ((6, 7), BATCH)])
def test_a_token_copies_no_keys_or_values(size, batch, prior):
    module, variables = prior("start")

    def sample(variables):
        return sample_gpt(module, variables, KEYS[:batch], start_tokens(module, batch), size=size)

    program = jax.jit(sample).lower(variables).compile().as_text()
    loops = program.split("\nENTRY ")[0]
    cached = rf"= f32\[[\d,]+,{module.sequence_length},8\]\S* "
    assert re.search(cached + "fusion", loops)
    assert not re.findall(cached + "copy", loops)


@pytest.mark.parametrize(
    ("kind", "make", "message"),
    [
        ("class", lambda m: class_tokens(m, [1, 5, -1]), "class -1, 5 is unknown; .* 0 to 4"),
        ("class", lambda m: start_tokens(m, 1), "'class', not 'start'; .* class_tokens"),
        ("start", lambda m: class_tokens(m, [0]), "'start', not 'class'; .* start_tokens"),
        ("codes", lambda m: code_tokens(m, np.full((1, 3), 13)), "13 to 13; this prior knows 0 to"),
    ],
)
def test_conditions_that_do_not_fit(kind, make, message, prior):
    with pytest.raises(ValueError, match=message):
        make(prior(kind)[0])


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("start", {"sampler": Sampler(top_k=14)}, "top_k is 14; expected 1 to 13"),
        ("start", {"size": (3, 8)}, "3x8 codes is smaller than the 4x4"),
        ("start", {"condition": np.zeros((2, 1), np.int32)}, r"\[2, 1\]; expected \[3, 1\]"),
        ("codes", {"condition": np.zeros((3, 2), np.int32)}, r"\[3, 2\]; expected \[3, 3\]"),
        (
            "map",
            {"condition": np.zeros((3, 16), np.int32), "size": (5, 4)},
            r"give it as \[3, 5, 4\]",
        ),
        (
            "map",
            {"condition": np.zeros((3, 5, 5), np.int32), "size": (5, 4)},
            r"expected \[3, 5, 4\] or \[3, 16\]",
        ),
        ("start", {"known_mask": np.ones((4, 4), bool)}, "or neither"),
        (
            "start",
            {"known_mask": np.ones((4, 4), bool), "known": np.zeros((3, 4, 5), int)},
            r"known has shape \[3, 4, 5\]",
        ),
        (
            "start",
            {"known_mask": np.ones((4, 4), bool), "known": np.full((3, 4, 4), 13)},
            "known holds values from 13 to 13; the network has 0 to 12",
        ),
    ],
)
def test_what_cannot_be_sampled(kind, changes, message, prior):
    module, variables = prior(kind)
    condition = changes.pop("condition", np.zeros((BATCH, module.condition_length), np.int32))
    with pytest.raises(ValueError, match=message):
        sample_gpt(module, variables, KEYS, condition, **changes)


def test_a_transformer_that_sees_later_codes_is_refused(prior):
    module, variables = prior("start")
    with pytest.raises(ValueError, match="n_unmasked=2 lets codes see later ones"):
        sample_gpt(module.clone(n_unmasked=2), variables, KEYS, np.zeros((BATCH, 1), np.int32))
