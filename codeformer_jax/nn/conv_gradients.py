"""3x3 convolution whose gradients are computed otherwise where XLA's CPU compiler is slow.

Of two kinds of layer, on CPUs alone; everywhere else the gradients are XLA's. CPU time of two
threads against XLA's own (`benchmarks/train_step.py` has whole steps):

| gradient | input | XLA | here |
|---|---|---|---|
| by the kernel, wide maps | [2, 128, 128, 128] -> 128 | 467 ms | 121 ms |
| by the input, small maps | [2, 4, 4, 512] -> 512 | 8.4 ms | 2.7 ms |
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# A row of the output's features from here on is where XLA's gradient by the kernel falls to a
# quarter of the rate of the forward convolution.
WIDE_ROW = 16_384
# Elements of the columns that a strip unfolds: what stays in a core's cache.
STRIP = 9 * 32_768
# Sites of the batch up to which transposing the kernel costs more than the products.
FEW_SITES = 128


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
    """`plain_convolve` with the faster gradients where they are."""
    if _is_wide(x, kernel) or _has_few_sites(x, kernel):
        return _convolve(x, kernel)
    return plain_convolve(x, kernel)


def kernel_gradient_by_strips(
    x: Float[Array, "b h w c"], cotangent: Float[Array, "b h w d"]
) -> Float[Array, "3 3 c d"]:
    """Gradient by the kernel: strip by strip, pixels times their 3x3 neighbourhoods."""
    b, h, w, c = x.shape
    d = cotangent.shape[-1]
    rows = max((r for r in range(1, h + 1) if h % r == 0 and b * r * w * 9 * c <= STRIP), default=1)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def add_strip(i, total):
        strip = jax.lax.dynamic_slice_in_dim(padded, i * rows, rows + 2, axis=1)
        taps = [strip[:, k : k + rows, m : m + w] for k in range(3) for m in range(3)]
        columns = jnp.concatenate(taps, axis=-1).reshape(-1, 9 * c)
        pixels = jax.lax.dynamic_slice_in_dim(cotangent, i * rows, rows, axis=1).reshape(-1, d)
        return total + jax.lax.dot_general(
            pixels, columns, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
        )

    total = jax.lax.fori_loop(0, h // rows, add_strip, jnp.zeros((d, 9 * c), jnp.float32))
    return total.reshape(d, 3, 3, c).transpose(1, 2, 3, 0).astype(x.dtype)


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
        if _has_few_sites(x, kernel)
        else by_input,
        (lambda x, kernel, g: kernel_gradient_by_strips(x, g))
        if _is_wide(x, kernel)
        else by_kernel,
    )
    return tuple(
        jax.lax.platform_dependent(x, kernel, cotangent, cpu=cpu, default=otherwise)
        for cpu, otherwise in zip(on_cpu, (by_input, by_kernel), strict=True)
    )


_convolve.defvjp(lambda x, kernel: (plain_convolve(x, kernel), (x, kernel)), _backward)


def _is_wide(x, kernel):
    c, d = kernel.shape[2:]
    return x.shape[2] >= 128 and x.shape[2] * d >= WIDE_ROW and c >= 32


def _has_few_sites(x, kernel):
    b, h, w, _ = x.shape
    return b * h * w <= FEW_SITES and min(kernel.shape[2:]) >= 256
