import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.nn import layers


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32)


def convolution(x, kernel, stride, padding):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=numbers
    )


@pytest.mark.parametrize(
    ("side", "stride", "padding"),
    [(3, 1, None), (1, 1, None), (3, 2, ((0, 1), (0, 1)))],
)
def test_conv_equals_lax(side, stride, padding):
    x = normal(0, 2, 8, 6, 4)
    module = layers.Conv(5, kernel_size=side, stride=stride, padding=padding)
    variables = module.init(jax.random.key(1), x)
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    half = side // 2
    expected = convolution(x, kernel, stride, padding or ((half, half), (half, half)))
    y = module.apply(variables, x)
    np.testing.assert_array_equal(y, expected + bias[None, None, None])
    assert y.shape == (2, 8 // stride, 6 // stride, 5)
    # PyTorch's default: uniform within 1 / sqrt(fan_in), and not much narrower.
    bound = (side**2 * 4) ** -0.5
    assert 0.8 * bound < jnp.abs(kernel).max() <= bound
    assert jnp.abs(bias).max() <= bound


def test_conv_options():
    x = normal(0, 1, 4, 4, 2)
    zero = layers.Conv(3, zero_init=True)
    np.testing.assert_array_equal(zero.apply(zero.init(jax.random.key(0), x), x), 0.0)
    bare = layers.Conv(3, use_bias=False)
    assert set(bare.init(jax.random.key(0), x)["params"]) == {"kernel"}


@pytest.mark.parametrize(("groups", "channels"), [(1, 6), (3, 6), (6, 6)])
def test_group_norm_equals_flax(groups, channels):
    x = 3 + 2 * normal(0, 2, 5, 4, channels)
    ours = layers.GroupNorm(groups)
    theirs = flax.linen.GroupNorm(groups, epsilon=1e-6, use_fast_variance=False)
    params = {"scale": 1 + normal(1, channels), "bias": normal(2, channels)}
    variables = {"params": params}
    with jax.numpy_rank_promotion("allow"):
        expected = theirs.apply(variables, x)
    np.testing.assert_allclose(ours.apply(variables, x), expected, rtol=1e-5, atol=1e-5)


def test_group_norm_has_the_derivatives_of_its_formula():
    """Both orders: the layer subtracts a constant that equals the mean."""
    x, weights = 3 + 2 * normal(0, 2, 5, 4, 6), normal(1, 2, 5, 4, 6)
    module = layers.GroupNorm(3)
    variables = {"params": {"scale": 1 + normal(2, 6) / 4, "bias": normal(3, 6)}}

    def formula(variables, x):
        scale, bias = (variables["params"][name] for name in ("scale", "bias"))
        groups = x.reshape(2, 20, 3, 2)
        mean = groups.mean(axis=(1, 3), keepdims=True)
        variance = ((groups - mean) ** 2).mean(axis=(1, 3), keepdims=True)
        normal = (groups - mean) / jnp.sqrt(variance + 1e-6)
        return normal.reshape(x.shape) * scale[None, None, None] + bias[None, None, None]

    def derivatives(function):
        def loss(variables, x):
            return jnp.sum(weights * jnp.sin(function(variables, x)))

        gradient = jax.grad(loss, argnums=(0, 1))
        second = jax.grad(lambda x: jnp.sum(weights * gradient(variables, x)[1]))
        return *gradient(variables, x), second(x)

    for found, expected in zip(
        jax.tree.leaves(derivatives(module.apply)),
        jax.tree.leaves(derivatives(formula)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_group_norm_of_a_far_mean():
    # One pass, E[x^2] - E[x]^2, would lose the variance altogether here.
    x = 1000 + 0.1 * normal(0, 1, 16, 16, 4)
    module = layers.GroupNorm(2)
    y = module.apply(module.init(jax.random.key(0), x), x)
    np.testing.assert_allclose(np.std(y), 1.0, rtol=1e-3)


def test_swish():
    x = jnp.linspace(-20, 20, 81)
    x = jnp.concatenate([x, jnp.array([-200.0, 200.0])])  # Beyond the range of the exponential.
    np.testing.assert_allclose(layers.swish(x), jax.nn.silu(x), rtol=1e-5, atol=1e-5)
    ours, theirs = (jax.vmap(jax.grad(f))(x) for f in (layers.swish, jax.nn.silu))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_attention_block_equals_its_formula():
    x, module = normal(0, 2, 4, 3, 8), layers.AttentionBlock(norm_groups=4)
    variables = module.init(jax.random.key(1), x)
    params = jax.tree.map(np.asarray, variables["params"])
    norm = layers.GroupNorm(4).apply({"params": params["norm"]}, x)

    def project(y, name):
        return y @ params[name]["kernel"][0, 0] + params[name]["bias"]

    tokens = np.asarray(norm).reshape(2, 12, 8)
    q, k, v = (project(tokens, name) for name in "qkv")
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(8)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    expected = np.asarray(x) + project(weights @ v, "proj_out").reshape(x.shape)
    np.testing.assert_allclose(module.apply(variables, x), expected, rtol=1e-4, atol=1e-5)


def test_residual_block_skips_by_identity_where_widths_agree():
    x = normal(0, 1, 4, 4, 8)
    for width, has_skip in ((8, False), (16, True)):
        module = layers.ResBlock(width, norm_groups=4)
        variables = module.init(jax.random.key(1), x)
        assert ("conv_out" in variables["params"]) == has_skip
        assert module.apply(variables, x).shape == (1, 4, 4, width)
    variables = layers.ResBlock(8, norm_groups=4).init(jax.random.key(1), x)
    last = jax.tree.map(jnp.zeros_like, variables["params"]["conv2"])
    silent = {"params": {**variables["params"], "conv2": last}}
    np.testing.assert_array_equal(layers.ResBlock(8, norm_groups=4).apply(silent, x), x)


def test_downsample_pads_bottom_and_right():
    x, module = normal(0, 1, 6, 8, 2), layers.Downsample()
    variables = module.init(jax.random.key(1), x)
    conv = variables["params"]["conv"]
    expected = convolution(x, conv["kernel"], 2, ((0, 1), (0, 1))) + conv["bias"][None, None, None]
    y = module.apply(variables, x)
    assert y.shape == (1, 3, 4, 2)
    np.testing.assert_allclose(y, expected, atol=1e-6)
