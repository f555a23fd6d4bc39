"""The convolution's own gradients are XLA's, for fewer operations of the CPU."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.nn.cpu import conv_gradients
from codeformer_jax.nn.cpu.conv_gradients import convolve, convolve_same, plain_convolve
from codeformer_jax.nn.layers import Conv
from codeformer_jax.nn.precision import with_precision


def draw(b, h, w, c, d, dtype=jnp.float32, side=3):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((b, h, w, c), (side, side, c, d), (b, h, w, d))
    return [jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True)]


def gradients(function, x, kernel, cotangent):
    return jax.vjp(function, x, kernel)[1](cotangent)


SHAPES = [(2, 6, 5, 4, 3), (1, 7, 8, 3, 2), (3, 1, 1, 2, 5), (2, 9, 10, 4, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [1, 3, 5])
def test_gradients_are_those_of_the_convolution(shape, side):
    x, kernel, cotangent = draw(*shape, side=side)
    by_input, by_kernel = jax.jit(partial(gradients, plain_convolve))(x, kernel, cotangent)
    # New functions: a trace of the old ones would serve the tests with strips of another size.
    strips = partial(conv_gradients.kernel_gradient_by_strips)
    np.testing.assert_allclose(
        jax.jit(strips)(x, kernel, cotangent), by_kernel, rtol=1e-4, atol=1e-5
    )
    taps = partial(conv_gradients.input_gradient_by_taps)
    np.testing.assert_allclose(jax.jit(taps)(x, kernel, cotangent), by_input, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [SHAPES[0], (4, 6, 10, 4, 3)])
def test_several_strips(monkeypatch, shape):
    """Of a 3x3 kernel; a 1x1 kernel takes all at once."""
    b, h, w, c, _ = shape
    monkeypatch.setattr(conv_gradients, "STRIP", b * (h // 3) * w * 9 * c)
    x, kernel, cotangent = draw(*shape)
    _, by_kernel = gradients(plain_convolve, x, kernel, cotangent)
    strips = jax.make_jaxpr(conv_gradients.kernel_gradient_by_strips)(x, kernel, cotangent)
    assert "length=3" in str(strips)
    ours = conv_gradients.kernel_gradient_by_strips(x, kernel, cotangent)
    np.testing.assert_allclose(ours, by_kernel, rtol=1e-4, atol=1e-5)
    x, kernel, cotangent = draw(*shape, side=1)
    strips = jax.make_jaxpr(conv_gradients.kernel_gradient_by_strips)(x, kernel, cotangent)
    assert "length=1" in str(strips)


@pytest.mark.parametrize(("h", "strips"), [(4, 1), (6, 3)])
def test_strips_of_a_strided_convolution(monkeypatch, h, strips):
    """4x4 kernels of stride 2 and one pixel of padding; h, w are the result's."""
    b, w, c, d = 2, 5, 4, 3
    monkeypatch.setattr(conv_gradients, "STRIP", b * (h // strips) * w * 16 * c)
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((b, 2 * h, 2 * w, c), (4, 4, c, d), (b, h, w, d))
    x, kernel, cotangent = (
        jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes, strict=True)
    )
    padding = ((1, 1), (1, 1))
    _, by_kernel = gradients(lambda x, k: convolve(x, k, 2, padding), x, kernel, cotangent)
    by_strips = partial(conv_gradients.kernel_gradient_by_strips, stride=2)
    assert f"length={strips}" in str(jax.make_jaxpr(by_strips)(x, kernel, cotangent))
    np.testing.assert_allclose(by_strips(x, kernel, cotangent), by_kernel, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [1, 3])
def test_layers_take_them(side):
    layer, x = Conv(8, kernel_size=side), jnp.ones((1, 4, 4, 32))
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    assert "platform_index" in str(
        jax.make_jaxpr(jax.grad(lambda p: layer.apply(p, x).sum()))(params)
    )


# Strips alone; taps with a kernel's gradient in its own order; taps with the other order; 1x1.
@pytest.mark.parametrize(
    ("shape", "side"),
    [
        ((1, 2, 128, 32, 128), 3),
        ((2, 4, 4, 256, 256), 3),
        ((1, 12, 12, 256, 256), 3),
        ((2, 6, 5, 8, 3), 1),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_they_are_taken_and_right(shape, side, dtype):
    arrays = draw(*shape, dtype, side)
    backward = str(jax.make_jaxpr(lambda *a: gradients(convolve_same, *a))(*arrays))
    assert "platform_index" in backward
    assert "scan" in backward
    bound = {jnp.float32: 1e-5, jnp.bfloat16: 2e-2}[dtype]
    ours = jax.jit(lambda *a: gradients(convolve_same, *a))(*arrays)
    theirs = gradients(plain_convolve, *(a.astype(jnp.float32) for a in arrays))
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == dtype
        error = jnp.linalg.norm(one.astype(jnp.float32) - other) / jnp.linalg.norm(other)
        assert error < bound


def test_other_layers_are_left_alone():
    x, kernel, _ = draw(1, 16, 16, 16, 32)
    assert "custom_jvp" not in str(jax.make_jaxpr(convolve_same)(x, kernel))


def total(function):
    return lambda x, kernel: jnp.sum(jnp.sin(function(x, kernel)))


def both(derivative):
    return lambda function: derivative(total(function), argnums=(0, 1))


def of_a_batch(function):
    """By a kernel that all share, and by one for each."""
    grad = jax.grad(total(function), (0, 1))
    shared = jax.vmap(grad, (0, None))
    summed = jax.grad(lambda x, k: jax.vmap(total(function), (0, None))(x, k).sum(), (0, 1))
    apart = jax.grad(lambda x, k: jax.vmap(total(function))(x, k).sum(), (0, 1))

    def all_three(x, kernel):
        two = jnp.stack([x, 2 * x])
        return shared(two, kernel), summed(two, kernel), apart(two, jnp.stack([kernel, -kernel]))

    return all_three


TRANSFORMED = {
    "jacfwd": both(jax.jacfwd),
    "jacrev": both(jax.jacrev),
    "hessian": both(jax.hessian),
    "reverse over reverse": lambda f: jax.jacrev(jax.jacrev(total(f), 1), 0),
    "vmap": of_a_batch,
}


@pytest.mark.parametrize("transform", TRANSFORMED.values(), ids=TRANSFORMED.keys())
@pytest.mark.parametrize("side", [1, 3])
def test_every_derivative_is_that_of_the_convolution(transform, side):
    x, kernel, _ = draw(1, 4, 5, 2, 3, side=side)
    functions = (conv_gradients._convolve, plain_convolve)
    ours, theirs = (jax.jit(transform(f))(x, kernel) for f in functions)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), ours, theirs)


def test_forward_mode():
    """Forward and reverse mode are each other's transposes, and linearize is jvp."""
    x, kernel, cotangent = draw(2, 6, 5, 32, 8)
    dx, dkernel, _ = draw(2, 6, 5, 32, 8)
    _, tangent = jax.jvp(convolve_same, (x, kernel), (dx, dkernel))
    by_x, by_kernel = gradients(convolve_same, x, kernel, cotangent)
    given = jnp.vdot(tangent, cotangent)
    np.testing.assert_allclose(given, jnp.vdot(by_x, dx) + jnp.vdot(by_kernel, dkernel), rtol=1e-4)
    _, linear = jax.linearize(convolve_same, x, kernel)
    np.testing.assert_allclose(linear(dx, dkernel), tangent, rtol=1e-4, atol=1e-4)
    # A convolution is bilinear: central differences are exact but for rounding.
    ahead, behind = (convolve_same(x + s * dx, kernel + s * dkernel) for s in (0.5, -0.5))
    np.testing.assert_allclose(ahead - behind, tangent, rtol=1e-3, atol=1e-3)


def test_what_is_not_differentiated_costs_nothing():
    x, kernel, _ = draw(1, 4, 4, 32, 8)
    tangent = jax.make_jaxpr(lambda x, k, d: jax.jvp(lambda k: convolve_same(x, k), (k,), (d,)))
    assert str(tangent(x, kernel, kernel)).count("= convolve") == 1


def test_tangents_have_the_precision_of_their_function():
    x, kernel, _ = draw(1, 4, 4, 32, 8)
    along = with_precision("highest", lambda x, k: jax.jvp(convolve_same, (x, k), (x, k)))
    text = jax.jit(along).lower(x, kernel).as_text()
    products = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(products) == 3  # The convolution, and a tangent by each of its inputs.
    assert all("HIGHEST" in line for line in products)
