"""3x3 convolution whose gradients are computed otherwise where XLA's CPU compiler is slow.

On CPUs alone; everywhere else the gradients are XLA's. Two threads against XLA's own
(`benchmarks/conv_gradients.py`; `benchmarks/train_step.py` has whole steps):

| gradient | input | XLA | here |
|---|---|---|---|
| by the kernel | [2, 128, 128, 64] -> 64 | 19 ms | 11 ms |
| by the kernel | [2, 64, 64, 128] -> 128 | 12 ms | 8 ms |
| by the kernel | [2, 8, 8, 512] -> 512 | 3.4 ms | 1.9 ms |
| by the input | [2, 16, 16, 512] -> 512 | 8.1 ms | 5.0 ms |
| by the input | [2, 4, 4, 512] -> 512 | 2.9 ms | 0.5 ms |
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Elements of the columns that a strip unfolds: what stays in the caches.
STRIP = 9 * 131_072
# Channels from which on a strip beats XLA's gradient by the kernel.
STRIP_CHANNELS = 32
# Sites of the batch up to which a kernel's gradient is larger than what it is made of.
FEW_SITES = 128
# Sites and channels between which transposing the kernel costs more than the input's gradient.
TAP_SITES, TAP_CHANNELS = 1024, 256


def plain_convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h w d"]:
    """Cross-correlation that keeps h and w, in NHWC and HWIO."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def convolve_same(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h w d"]:
    """`plain_convolve` with the faster gradients where they are; those in reverse mode only."""
    return (_convolve if x.shape[-1] >= STRIP_CHANNELS else plain_convolve)(x, kernel)


def kernel_gradient_by_strips(
    x: Float[Array, "b h w c"], cotangent: Float[Array, "b h w d"]
) -> Float[Array, "3 3 c d"]:
    """Gradient by the kernel: strip by strip, pixels times their 3x3 neighbourhoods."""
    b, h, w, c = x.shape
    d = cotangent.shape[-1]
    rows = max((r for r in range(1, h + 1) if h % r == 0 and b * r * w * 9 * c <= STRIP), default=1)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    # The kernel's own order spares a transposition at the end, the other is the faster product.
    as_kernel = b * h * w <= FEW_SITES
    accumulated = x.dtype if x.dtype.itemsize > 4 else jnp.float32

    def add_strip(i, total):
        strip = jax.lax.dynamic_slice_in_dim(padded, i * rows, rows + 2, axis=1)
        taps = [strip[:, k : k + rows, m : m + w] for k in range(3) for m in range(3)]
        columns = jnp.concatenate(taps, axis=-1).reshape(-1, 9 * c)
        pixels = jax.lax.dynamic_slice_in_dim(cotangent, i * rows, rows, axis=1).reshape(-1, d)
        factors = (columns, pixels) if as_kernel else (pixels, columns)
        return total + jax.lax.dot_general(
            *factors, (((0,), (0,)), ((), ())), preferred_element_type=accumulated
        )

    start = jnp.zeros((9 * c, d) if as_kernel else (d, 9 * c), accumulated)
    total = jax.lax.fori_loop(0, h // rows, add_strip, start)
    if not as_kernel:
        total = total.T
    return total.reshape(3, 3, c, d).astype(x.dtype)


def input_gradient_by_taps(
    kernel: Float[Array, "3 3 c d"], cotangent: Float[Array, "b h w d"]
) -> Float[Array, "b h w c"]:
    """Gradient by the input: one product with the kernel as it lies, then nine shifted sums."""
    b, h, w, d = cotangent.shape
    c = kernel.shape[2]
    products = jax.lax.dot_general(
        cotangent.reshape(-1, d), kernel.reshape(9 * c, d), (((1,), (1,)), ((), ()))
    )
    products = products.reshape(b, h, w, 3, 3, c)
    # Tap (k, m) of output (i, j) saw input (i + k - 1, j + m - 1).
    shifted = [
        jnp.pad(products[:, :, :, k, m], ((0, 0), (k, 2 - k), (m, 2 - m), (0, 0)))
        for k in range(3)
        for m in range(3)
    ]
    return sum(shifted)[:, 1:-1, 1:-1]


@jax.custom_vjp
def _convolve(x, kernel):
    return plain_convolve(x, kernel)


def _backward(residuals, cotangent):
    x, kernel = residuals

    def by_input(x, kernel, cotangent):
        return jax.vjp(lambda x: plain_convolve(x, kernel), x)[1](cotangent)[0]

    def by_kernel(x, kernel, cotangent):
        return jax.vjp(lambda k: plain_convolve(x, k), kernel)[1](cotangent)[0]

    on_cpu = (
        (lambda x, kernel, g: input_gradient_by_taps(kernel, g))
        if _taps_pay(x, kernel)
        else by_input,
        lambda x, kernel, g: kernel_gradient_by_strips(x, g),
    )
    return tuple(
        jax.lax.platform_dependent(x, kernel, cotangent, cpu=cpu, default=otherwise)
        for cpu, otherwise in zip(on_cpu, (by_input, by_kernel), strict=True)
    )


_convolve.defvjp(lambda x, kernel: (plain_convolve(x, kernel), (x, kernel)), _backward)


def _pointwise(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((0, 0), (0, 0)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_vjp
def convolve_pointwise(
    x: Float[Array, "b h w c"], kernel: Float[Array, "1 1 c d"]
) -> Float[Array, "b h w d"]:
    """1x1 convolution whose gradients are, on CPUs, products without transposed copies."""
    return _pointwise(x, kernel)


def _pointwise_backward(residuals, cotangent):
    def products(x, kernel, g):
        c, d = kernel.shape[2:]
        flat = g.reshape(-1, d)
        by_input = jax.lax.dot_general(flat, kernel[0, 0], (((1,), (1,)), ((), ())))
        by_kernel = jax.lax.dot_general(x.reshape(-1, c), flat, (((0,), (0,)), ((), ())))
        return by_input.reshape(x.shape), by_kernel.reshape(kernel.shape)

    def own(x, kernel, g):
        return jax.vjp(_pointwise, x, kernel)[1](g)

    return jax.lax.platform_dependent(*residuals, cotangent, cpu=products, default=own)


convolve_pointwise.defvjp(
    lambda x, kernel: (_pointwise(x, kernel), (x, kernel)), _pointwise_backward
)


def _taps_pay(x, kernel):
    b, h, w, _ = x.shape
    return b * h * w <= TAP_SITES and min(kernel.shape[2:]) >= TAP_CHANNELS
