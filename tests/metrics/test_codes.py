import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax import metrics


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_accuracy_is_the_share_of_equal_codes_per_image(transform):
    predicted = jnp.array([[1, 2, 3, 4], [0, 0, 0, 0]])
    targets = jnp.array([[1, 2, 0, 4], [1, 1, 1, 1]])
    np.testing.assert_allclose(transform(metrics.code_accuracy)(predicted, targets), [0.75, 0.0])


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_cross_entropy_is_the_formula_per_image(transform):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (2, 5, 7)).astype(np.float32)
    targets = rng.integers(0, 7, (2, 5))
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(-1, keepdims=True)
    expected = -np.log(np.take_along_axis(p, targets[..., None], -1)[..., 0]).mean(1)
    result = transform(metrics.code_cross_entropy)(jnp.array(logits), jnp.array(targets, jnp.int32))
    np.testing.assert_allclose(result, expected, 1e-5)


@pytest.mark.parametrize(
    ("counts", "perplexity", "used", "share"),
    [
        ([4, 4, 4, 4], 4.0, 4, 0.25),
        ([7, 0, 0, 0], 1.0, 1, 1.0),
        ([2, 1, 1, 0], np.exp(1.5 * np.log(2)), 3, 0.5),
        ([0, 0, 0, 0], 1.0, 0, 0.0),
    ],
)
def test_codebook_usage(counts, perplexity, used, share):
    for function in (metrics.codebook_usage, jax.jit(metrics.codebook_usage)):
        usage = function(jnp.array(counts, jnp.float32))
        np.testing.assert_allclose(usage.perplexity, perplexity, 1e-5)
        assert (int(usage.used), int(usage.dead)) == (used, 4 - used)
        np.testing.assert_allclose(usage.commonest_share, share)
