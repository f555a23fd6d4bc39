"""Maps sampled with cached rows against full forwards, on the same noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.nn import PixelCNN
from codeformer_jax.sampling import Sampler, pixelcnn
from codeformer_jax.sampling import sample_pixelcnn as sample

SMALL = {"map_size": 6, "levels": 11, "embed_dim": 4, "features": 12, "head_features": 12}
CASES = {
    "codes": {"layers": 5, "first_kernel": 5},
    "classes": {"layers": 3, "first_kernel": 7, "kernel": 5, "classes": 4},
    "pixels": {"layers": 3, "channels": 3, "ordinal": True, "first_kernel": 3},
}


def make(fields):
    """Returns a network far from uniform, so that noise and context both matter."""
    module = PixelCNN(**SMALL | fields)
    values = jnp.zeros((1, 4, 4, module.channels), jnp.int32)
    labels = jnp.zeros(1, jnp.int32) if module.classes else None
    shapes = jax.eval_shape(module.init, jax.random.key(1), values, labels)
    rng = np.random.default_rng(1)

    def draw(leaf):
        scale = 2.5 / np.sqrt(np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.5
        return jnp.asarray(scale * rng.standard_normal(leaf.shape), leaf.dtype)

    return module, jax.tree.map(draw, shapes)


@pytest.fixture(scope="module")
def networks():
    return {name: make(fields) for name, fields in CASES.items()}


def keys(*seeds):
    return jnp.stack([jax.random.key(seed) for seed in seeds])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [(6, 6), (5, 9)])
def test_cached_rows_sample_the_values_of_full_forwards(networks, name, size):
    module, variables = networks[name]
    labels = np.array([0, 3, 1]) if module.classes else None
    arguments = {"size": size, "labels": labels}
    for temperature in (1.0, 0.6, 0.0):
        options = dict(arguments, sampler=Sampler(temperature=temperature))
        cached = sample(module, variables, keys(0, 1, 2), **options)
        full = sample(module, variables, keys(0, 1, 2), **options, cache=False)
        np.testing.assert_array_equal(cached, full)
        assert cached.shape == (3, *size, module.channels)
        if temperature:
            assert len(np.unique(cached)) > module.levels / 2
            assert np.any(cached[0] != cached[1])


def test_a_map_depends_on_its_own_key_and_label_only(networks):
    module, variables = networks["classes"]
    many = sample(module, variables, keys(5, 6, 7), labels=np.array([0, 3, 1]))
    alone = sample(module, variables, keys(6), labels=np.array([3]))
    np.testing.assert_array_equal(many[1], alone[0])
    other = sample(module, variables, keys(6), labels=np.array([2]))
    assert np.any(other != alone)


def test_at_temperature_0_every_value_is_the_likeliest(networks):
    module, variables = networks["codes"]
    sampled = sample(module, variables, keys(3, 4), sampler=Sampler(temperature=0.0))
    np.testing.assert_array_equal(sampled[0], sampled[1])
    logits = module.apply(variables, sampled)
    np.testing.assert_array_equal(jnp.argmax(logits, axis=-1), sampled)


def test_samples_have_the_networks_probabilities(networks):
    """Checks the first value, which nothing precedes, over many maps."""
    module, variables = networks["codes"]
    many = jax.vmap(jax.random.key)(jnp.arange(4000))
    logits = module.apply(variables, jnp.zeros((1, 1, 1, 1), jnp.int32))[0, 0, 0, 0]
    for temperature in (1.0, 0.5):
        sampled = sample(
            module, variables, many, size=(1, 1), sampler=Sampler(temperature=temperature)
        )
        shares = np.bincount(np.asarray(sampled).reshape(-1), minlength=module.levels) / 4000
        expected = np.asarray(jax.nn.softmax(logits / temperature))
        # Four standard deviations of a share.
        assert np.all(np.abs(shares - expected) < 4 * np.sqrt(expected / 4000) + 1e-3)


@pytest.mark.parametrize("name", ["codes", "pixels"])
def test_known_values_stay_and_the_rest_depends_on_them(networks, name):
    module, variables = networks[name]
    shape = (2, 6, 6, module.channels)
    known = jax.random.randint(jax.random.key(9), shape, 0, module.levels)
    mask = np.zeros(shape[1:3], bool)
    mask[:3] = True  # The upper half,
    mask[4, 2] = True  # and one site below it.
    arguments = {"known": known, "known_mask": mask}
    cached = sample(module, variables, keys(0, 1), **arguments)
    np.testing.assert_array_equal(np.asarray(cached)[:, mask], np.asarray(known)[:, mask])
    full = sample(module, variables, keys(0, 1), **arguments, cache=False)
    np.testing.assert_array_equal(cached, full)
    free = sample(module, variables, keys(0, 1))
    assert np.any(cached[:, 3:] != free[:, 3:])
    # With half of its own sample known, the network samples the other half again.
    again = sample(module, variables, keys(0, 1), known=free, known_mask=mask)
    np.testing.assert_array_equal(again, free)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "classes",
            {"labels": np.array([0, 4])},
            "class 4 is unknown; this prior has the classes 0 to 3",
        ),
        ("classes", {"labels": np.array([-1, 9])}, "class -1, 9 is unknown"),
        ("classes", {"labels": np.array([1])}, r"labels are int64 \[1\]; expected 2 integers"),
        ("classes", {}, "this network has 4 classes; give one per map"),
        (
            "codes",
            {"labels": np.array([0, 1])},
            "this network has no classes; leave",
        ),
        ("codes", {"sampler": Sampler(temperature=-0.1)}, "temperature is -0.1; expected 0"),
        ("codes", {"sampler": Sampler(top_k=12)}, "top_k is 12; expected 1 to 11"),
        ("codes", {"size": (-3, 6)}, "size is -3x6; expected sides of at least 1"),
        ("codes", {"known_mask": np.ones((6, 6), bool)}, "known and known_mask go together"),
        (
            "codes",
            {"known": jnp.zeros((2, 3, 6, 1), jnp.int32), "known_mask": np.ones((6, 6), bool)},
            r"known has shape \[2, 3, 6, 1\] and known_mask is bool .*expected \[2, 6, 6, 1\]",
        ),
        (
            "codes",
            {"known": jnp.full((2, 6, 6, 1), 11), "known_mask": np.ones((6, 6), bool)},
            r"known holds values from 11 to 11; the network has 0 to 10",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(networks, name, arguments, message):
    module, variables = networks[name]
    with pytest.raises(ValueError, match=message):
        sample(module, variables, keys(0, 1), **arguments)


def test_another_temperature_does_not_compile_again(networks):
    module, variables = networks["codes"]
    sample(module, variables, keys(0), sampler=Sampler(temperature=0.9))
    before = pixelcnn._sample._cache_size()
    sample(module, variables, keys(1), sampler=Sampler(temperature=0.3))
    assert pixelcnn._sample._cache_size() == before


def test_a_network_of_bfloat16_is_sampled_in_float32(networks):
    module, variables = networks["codes"]
    half = module.clone(dtype=jnp.bfloat16)
    expected = sample(module, variables, keys(5, 6))
    np.testing.assert_array_equal(sample(half, variables, keys(5, 6)), expected)
