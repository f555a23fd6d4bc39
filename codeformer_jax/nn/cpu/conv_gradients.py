"""1x1 and 3x3 convolutions with faster gradients where XLA's CPU compiler is slow.

Other platforms use XLA's gradients. `nn/cpu/doubling.py` has the gradients of a doubled map.
Two threads against XLA's own (`benchmarks/conv_gradients.py`; `benchmarks/train_step.py` measures
whole steps):

| gradient | kernel | input | XLA | here |
|---|---|---|---|---|
| by the kernel | 3x3 | [2, 128, 128, 64] -> 64 | 20 ms | 11 ms |
| by the kernel | 3x3 | [2, 64, 64, 128] -> 128 | 13 ms | 8 ms |
| by the kernel | 3x3 | [2, 8, 8, 512] -> 512 | 3.5 ms | 1.9 ms |
| by the kernel | 1x1 | [2, 128, 128, 64] -> 128 | 13 ms | 2.6 ms |
| by the input | 3x3 | [2, 16, 16, 512] -> 512 | 8.3 ms | 5.4 ms |
| by the input | 3x3 | [2, 4, 4, 512] -> 512 | 2.6 ms | 0.6 ms |
| by the input | 1x1 | [2, 128, 128, 64] -> 128 | 3.9 ms | 2.5 ms |
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]
# Argument of which only shape and dtype are used.
Shape = jax.ShapeDtypeStruct | Array
Product = Callable[..., Array]

# Elements of the columns that a strip unfolds, so that they stay in the caches.
STRIP = 9 * 131_072
# Fewest channels for which strips of 3x3 neighbourhoods beat XLA's gradient by the kernel.
STRIP_CHANNELS = 32
# Most sites of a batch for which a kernel's gradient is larger than its factors.
FEW_SITES = 128
# Most sites and fewest channels for which transposing a 3x3 kernel outweighs the input's gradient.
TAP_SITES, TAP_CHANNELS = 1024, 256


def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k l c d"], stride: int, padding: Padding
) -> Float[Array, "b h2 w2 d"]:
    """Returns the cross-correlation in NHWC and HWIO.

    Args:
        x: [b, h, w, c].
        kernel: [k, l, c, d].
        stride: stride of both axes.
        padding: ((top, bottom), (left, right)) in pixels.
    """
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def plain_convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"]
) -> Float[Array, "b h w d"]:
    """Returns the cross-correlation of stride 1 that keeps h and w, with XLA's gradients.

    Args:
        x: [b, h, w, c].
        kernel: [k, k, c, d], k odd.
    """
    half = len(kernel) // 2
    return convolve(x, kernel, 1, ((half, half), (half, half)))


def convolve_same(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"]
) -> Float[Array, "b h w d"]:
    """Returns `plain_convolve` with the faster gradients.

    Args:
        x: [b, h, w, c].
        kernel: [k, k, c, d], k 1 or 3.
    """
    faster = len(kernel) == 1 or x.shape[-1] >= STRIP_CHANNELS
    return (_convolve if faster else plain_convolve)(x, kernel)


def input_gradient(
    x: Shape, kernel: Float[Array, "k k c d"], cotangent: Float[Array, "b h w d"]
) -> Float[Array, "b h w c"]:
    """Returns XLA's gradient of `plain_convolve` by the input.

    Args:
        x: array or shape [b, h, w, c]; values are not used.
        kernel: [k, k, c, d].
        cotangent: [b, h, w, d].
    """
    return jax.linear_transpose(lambda x: plain_convolve(x, kernel), x)(cotangent)[0]


def kernel_gradient(
    x: Float[Array, "b h w c"], kernel: Shape, cotangent: Float[Array, "b h w d"]
) -> Float[Array, "k k c d"]:
    """Returns XLA's gradient of `plain_convolve` by the kernel.

    Args:
        x: [b, h, w, c].
        kernel: array or shape [k, k, c, d]; values are not used.
        cotangent: [b, h, w, d].
    """
    return jax.linear_transpose(lambda kernel: plain_convolve(x, kernel), kernel)(cotangent)[0]


def input_gradient_by_taps(
    x: Shape, kernel: Float[Array, "k k c d"], cotangent: Float[Array, "b h w d"]
) -> Float[Array, "b h w c"]:
    """Returns the gradient by the input from one product with the untransposed kernel.

    Args:
        x, kernel, cotangent: see `input_gradient`.
    """
    b, h, w, c = x.shape
    side, half, d = len(kernel), len(kernel) // 2, kernel.shape[-1]
    products = jax.lax.dot_general(
        cotangent.reshape(-1, d), kernel.reshape(-1, d), (((1,), (1,)), ((), ()))
    )
    products = products.reshape(b, h, w, side, side, c)
    # Tap (k, m) of output (i, j) saw input (i + k - half, j + m - half).
    after = side - 1
    shifted = [
        jnp.pad(products[:, :, :, k, m], ((0, 0), (k, after - k), (m, after - m), (0, 0)))
        for k in range(side)
        for m in range(side)
    ]
    return sum(shifted)[:, half : half + h, half : half + w]


def kernel_gradient_by_strips(
    x: Float[Array, "b h w c"],
    kernel: Shape,
    cotangent: Float[Array, "b h2 w2 d"],
    stride: int = 1,
) -> Float[Array, "k k c d"]:
    """Returns the gradient of `convolve` by the kernel: pixels times neighbourhoods, in strips.

    h = stride * h2, with (k - stride) / 2 pixels of padding on every side; k - stride must be even.
    A 1x1 kernel needs no unfolding and takes a single strip.

    Args:
        x: [b, h, w, c].
        kernel: array or shape [k, k, c, d]; values are not used.
        cotangent: [b, h2, w2, d].
        stride: stride of the convolution.
    """
    b, h, w, d = cotangent.shape
    side, c = kernel.shape[1:3]
    taps, pad = side * side, (side - stride) // 2
    fits = (r for r in range(1, h + 1) if h % r == 0 and b * r * w * taps * c <= STRIP)
    rows = h if side == 1 else max(fits, default=1)
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    # The kernel's own order avoids a final transposition; the other order is the faster product.
    as_kernel = side == 1 or b * h * w <= FEW_SITES
    accumulated = x.dtype if x.dtype.itemsize > 4 else jnp.float32
    height, width = stride * rows, stride * w

    def add_strip(i, total):
        strip = jax.lax.dynamic_slice_in_dim(padded, i * height, height + side - stride, axis=1)
        seen = [
            strip[:, k : k + height : stride, m : m + width : stride]
            for k in range(side)
            for m in range(side)
        ]
        columns = jnp.concatenate(seen, axis=-1).reshape(-1, taps * c)
        pixels = jax.lax.dynamic_slice_in_dim(cotangent, i * rows, rows, axis=1).reshape(-1, d)
        factors = (columns, pixels) if as_kernel else (pixels, columns)
        return total + jax.lax.dot_general(
            *factors, (((0,), (0,)), ((), ())), preferred_element_type=accumulated
        )

    start = jnp.zeros((taps * c, d) if as_kernel else (d, taps * c), accumulated)
    total = jax.lax.fori_loop(0, h // rows, add_strip, start)
    if not as_kernel:
        total = total.T
    return total.reshape(kernel.shape).astype(x.dtype)


def bilinear(forward: Product, by_x: Product, by_kernel: Product) -> Product:
    """Returns `forward`, a bilinear function of (x, kernel), with the given gradients.

    The result can be differentiated any number of times in either mode, and vmapped; a vmapped
    kernel gets XLA's gradients. Only derivatives contain the primitive that carries the gradients.

    Args:
        forward: function (x [b, ...], kernel) -> [b, ...].
        by_x: function (shape of x, kernel, cotangent) -> gradient by x.
        by_kernel: function (x, shape of the kernel, cotangent) -> gradient by the kernel.
    """
    product = Primitive("convolve")

    def bind(x, kernel):
        # It is lowered later, outside the context that sets the precision.
        return product.bind(x, kernel, precision=jax.config.jax_default_matmul_precision)

    def precise(x, kernel, *, precision):
        with jax.default_matmul_precision(precision):
            return forward(x, kernel)

    product.def_impl(jax.jit(precise, static_argnames="precision"))

    @product.def_abstract_eval
    def _(x, kernel, *, precision):
        return jax.make_jaxpr(forward)(x, kernel).out_avals[0]

    def batched(arguments, axes, *, precision):
        (x, kernel), (axis, kernel_axis) = arguments, axes
        if kernel_axis is not None:
            return jax.vmap(partial(precise, precision=precision), axes)(x, kernel), 0
        x = jnp.moveaxis(x, axis, 0)
        y = product.bind(x.reshape(-1, *x.shape[2:]), kernel, precision=precision)
        return y.reshape(*x.shape[:2], *y.shape[1:]), 0

    mlir.register_lowering(product, mlir.lower_fun(precise, multiple_results=False))
    batching.primitive_batchers[product] = batched
    ad.defbilinear(
        product,
        lambda cotangent, x, kernel, **_: by_x(_struct(x.aval), kernel, cotangent),
        lambda cotangent, x, kernel, **_: by_kernel(x, _struct(kernel.aval), cotangent),
    )

    @jax.custom_jvp
    def convolution(x, kernel):
        return forward(x, kernel)

    def derivative(primals, tangents):
        (x, kernel), (dx, dkernel) = primals, tangents
        parts = [bind(dx, kernel)] if not _is_zero(dx) else []
        parts += [bind(x, dkernel)] if not _is_zero(dkernel) else []
        y = forward(x, kernel)
        return y, sum(parts[1:], parts[0]) if parts else jnp.zeros_like(y)

    convolution.defjvp(derivative, symbolic_zeros=True)
    return convolution


def _struct(aval: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero)


def _by_x(x, kernel, cotangent):
    few_and_wide = x.size // x.shape[-1] <= TAP_SITES and min(kernel.shape[2:]) >= TAP_CHANNELS
    by_taps = len(kernel) == 1 or few_and_wide
    return jax.lax.platform_dependent(
        kernel,
        cotangent,
        cpu=partial(input_gradient_by_taps if by_taps else input_gradient, x),
        default=partial(input_gradient, x),
    )


def _by_kernel(x, kernel, cotangent):
    return jax.lax.platform_dependent(
        x,
        cotangent,
        cpu=lambda x, cotangent: kernel_gradient_by_strips(x, kernel, cotangent),
        default=lambda x, cotangent: kernel_gradient(x, kernel, cotangent),
    )


_convolve = bilinear(plain_convolve, _by_x, _by_kernel)
