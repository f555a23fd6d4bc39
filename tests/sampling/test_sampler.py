"""Temperature, top-k and top-p against brute force; noise by sample and site."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.sampling.sampler import Sampler, filter_logits, sample_codes

PROBABILITIES = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
LOGITS = jnp.log(jnp.asarray(PROBABILITIES, jnp.float32))[None, jnp.array([3, 0, 4, 1, 2])]


@pytest.mark.parametrize(
    ("sampler", "kept"),
    [
        (Sampler(), {0, 1, 2, 3, 4}),
        (Sampler(top_k=5), {0, 1, 2, 3, 4}),
        (Sampler(top_k=2), {1, 3}),
        (Sampler(top_k=1), {1}),
        (Sampler(top_p=1.0), {0, 1, 2, 3, 4}),
        (Sampler(top_p=0.69), {1, 3}),
        (Sampler(top_p=0.71), {1, 3, 4}),
        (Sampler(top_p=1e-6), {1}),
        # At temperature 0.5 probabilities are squared and normalised: 0.56, 0.32, 0.08, ...
        (Sampler(top_p=0.85, temperature=0.5), {1, 3}),
        (Sampler(top_p=0.85), {1, 3, 4}),
        # top_k leaves 0.47, 0.35 and 0.18.
        (Sampler(top_k=3, top_p=0.8), {1, 3}),
        (Sampler(top_p=0.8), {1, 3, 4}),
        (Sampler(codebook_size=3), {0, 1, 2}),
        (Sampler(codebook_size=3, top_k=2), {0, 1}),
    ],
)
def test_filter_logits_keeps(sampler, kept):
    for apply in (filter_logits, jax.jit(filter_logits)):
        filtered = np.asarray(apply(LOGITS, sampler))[0]
        assert set(np.flatnonzero(np.isfinite(filtered))) == kept
        np.testing.assert_array_equal(filtered[list(kept)], np.asarray(LOGITS)[0, list(kept)])


def test_ties_of_the_last_code_stay():
    logits = jnp.array([[1.0, 2.0, 1.0, 0.0]])
    kept = np.isfinite(np.asarray(filter_logits(logits, Sampler(top_k=2))))[0]
    np.testing.assert_array_equal(kept, [True, True, True, False])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_probabilities(temperature):
    number = 20_000
    keys = jax.random.split(jax.random.key(0), number)
    logits = jnp.broadcast_to(LOGITS, (number, 5))
    codes = jax.jit(sample_codes)(logits, keys, jnp.int32(3), Sampler(temperature=temperature))
    shares = np.bincount(codes, minlength=5) / number
    expected = np.asarray(jax.nn.softmax(LOGITS[0] / temperature))
    # Five deviations of a share of 1/2.
    np.testing.assert_allclose(shares, expected, rtol=0, atol=5 * 0.5 / np.sqrt(number))


def test_temperature_zero_takes_the_likeliest():
    keys = jax.random.split(jax.random.key(0), 50)
    logits = jnp.broadcast_to(LOGITS, (50, 5))
    for sampler in (
        Sampler(temperature=0.0),
        Sampler(temperature=0.0, top_p=0.5),
        Sampler(top_k=1),
    ):
        np.testing.assert_array_equal(sample_codes(logits, keys, jnp.int32(0), sampler), 1)


def test_noise_depends_on_sample_and_site_only():
    keys = jax.random.split(jax.random.key(0), 64)
    logits = jnp.zeros((64, 100))

    def sample(keys, site):
        return np.asarray(sample_codes(logits[: len(keys)], keys, jnp.int32(site), Sampler()))

    at_0 = sample(keys, 0)
    np.testing.assert_array_equal(sample(keys[10:20], 0), at_0[10:20])
    assert np.mean(sample(keys, 1) == at_0) < 0.2
    assert len(set(at_0.tolist())) > 30


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (Sampler(top_k=12), "top_k is 12; expected 1 to 11, the number of codes"),
        (Sampler(top_k=0), "top_k is 0"),
        (Sampler(top_p=0.0), "top_p is 0.0; expected more than 0 and at most 1"),
        (Sampler(top_p=1.5), r"top_p is 1\.5"),
        (Sampler(temperature=-1.0), r"temperature is -1\.0; expected 0"),
        (Sampler(temperature=float("nan")), "temperature is nan"),
    ],
)
def test_settings_out_of_range(sampler, message):
    with pytest.raises(ValueError, match=message):
        sampler.check(11)
    Sampler(top_k=11, top_p=1.0, temperature=0.0).check(11)
