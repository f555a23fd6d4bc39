"""The convolution of a doubled map is that of `repeat`, forward and backward."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.nn.cpu import doubling
from codeformer_jax.nn.cpu.doubling import doubling_convolve
from codeformer_jax.nn.layers import DoublingConv


def draw(*shape, dtype=jnp.float32):
    """x, kernel and a cotangent for 4 features."""
    b, h, w, c = shape
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (shape, (3, 3, c, 4), (b, 2 * h, 2 * w, 4))
    return [jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True)]


def repeated(x, kernel):
    return jax.lax.conv_general_dilated(
        x.repeat(2, axis=1).repeat(2, axis=2),
        kernel,
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def pull_back(x, kernel, cotangent, function=doubling_convolve):
    """The result and both gradients."""
    y, pullback = jax.vjp(function, x, kernel)
    return y, *pullback(cotangent)


# Below 1024 sites the input is doubled, from there on the kernel is folded.
SHAPES = [(2, 5, 7, 3), (1, 32, 32, 3), (2, 16, 65, 3), (1, 33, 32, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_repeat_and_conv(shape):
    arrays = draw(*shape)
    expected = pull_back(*arrays, function=repeated)
    for ours, theirs in zip(jax.jit(pull_back)(*arrays), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_in_half_precision(shape):
    arrays = draw(*shape)
    expected = pull_back(*arrays, function=repeated)
    halved = [a.astype(jnp.bfloat16) for a in arrays]
    for ours, theirs in zip(jax.jit(pull_back)(*halved), expected, strict=True):
        assert ours.dtype == jnp.bfloat16
        error = jnp.linalg.norm(ours.astype(jnp.float32) - theirs) / jnp.linalg.norm(theirs)
        assert error < 2e-2


def test_in_double_precision():
    with jax.enable_x64(True):
        arrays = draw(1, 32, 32, 3, dtype=jnp.float64)
        expected = pull_back(*arrays, function=repeated)
        for ours, theirs in zip(jax.jit(pull_back)(*arrays), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_large_maps_are_folded():
    def products(side):
        x, kernel, _ = draw(1, side, side, 3)
        return jax.jit(doubling_convolve).lower(x, kernel).cost_analysis()["flops"] / side**2

    # 4/9 of the products per site, but for borders and folding the kernel.
    assert products(64) < 0.6 * products(16)


@pytest.mark.parametrize(
    ("side", "platform", "folded"), [(32, "cpu", True), (31, "cpu", False), (32, "cuda", False)]
)
def test_gradients_are_folded_for_large_maps_on_cpus(side, platform, folded):
    arrays = draw(1, side, side, 3)
    lowered = jax.jit(pull_back).trace(*arrays).lower(lowering_platforms=(platform,))
    assert lowered.as_text().count("stride = [2, 2]") == folded


@pytest.mark.parametrize("shape", SHAPES)
def test_forward_mode(shape):
    x, kernel, _ = draw(*shape)
    tangents = (jnp.cos(x), jnp.sin(kernel))
    ours, theirs = (jax.jvp(f, (x, kernel), tangents) for f in (doubling_convolve, repeated))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_derivatives_of_a_folded_map(monkeypatch):
    monkeypatch.setattr(doubling, "FOLDED_SITES", 1)
    x, kernel, _ = draw(1, 2, 3, 2)

    @partial(jax.jit, static_argnums=0)
    def derivatives(function, x, kernel):
        loss = lambda x, kernel: jnp.sum(jnp.sin(function(x, kernel)))  # noqa: E731
        two = jnp.stack([x, -x])
        return (
            jax.hessian(loss, (0, 1))(x, kernel),
            jax.jacfwd(loss, (0, 1))(x, kernel),
            jax.grad(lambda x, k: jax.vmap(loss, (0, None))(x, k).sum(), (0, 1))(two, kernel),
        )

    ours, theirs = (derivatives(f, x, kernel) for f in (doubling_convolve, repeated))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)


def test_the_layer_takes_it(monkeypatch):
    x, layer = draw(1, 8, 8, 3)[0], DoublingConv(4, use_bias=False)
    variables = layer.init(jax.random.key(1), x)
    given, programs = repeated(x, variables["params"]["kernel"]), set()
    for sites in (64, 65):
        monkeypatch.setattr(doubling, "FOLDED_SITES", sites)
        np.testing.assert_allclose(layer.apply(variables, x), given, rtol=1e-4, atol=1e-5)
        programs.add(jax.jit(layer.apply).lower(variables, x).as_text())
        jax.clear_caches()
    assert len(programs) == 2  # One is folded.


def test_tpus_double_maps_of_any_size():
    x, kernel, _ = draw(1, 32, 32, 3)
    traced = jax.jit(doubling_convolve).trace(x, kernel)
    for platform, folded in (("cpu", True), ("cuda", True), ("tpu", False)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("tensor<2x2x3x16xf32>" in text) == folded, platform
