"""3x3 convolution of a nearest-neighbour doubled map, without doubling it first."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from codeformer_jax.nn.cpu.conv_gradients import (
    Shape,
    bilinear,
    convolve,
    convolve_same,
    kernel_gradient_by_strips,
    plain_convolve,
)

# Fewest sites of a map for which the kernel is folded. On smaller maps folding costs about as much
# as it saves: on a CPU a little less from 16x16 sites on; on an accelerator 16x16 sites of 512
# channels take less time than reading and writing their kernel.
FOLDED_SITES = 1024


def doubling_convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h2 w2 d"]:
    """Returns the 3x3 convolution of the nearest-neighbour doubled `x`, [b, 2h, 2w, d].

    A pixel of the doubled image sees only 2x2 pixels of the original. The 3x3 kernel therefore
    folds into four 2x2 kernels, one for each place within a doubled pixel: the same values for 4/9
    of the products. On CPUs the gradients are those of a 4x4 convolution of stride 2, again for
    4/9; elsewhere they are XLA's for the doubled form. Maps below `FOLDED_SITES` are doubled, and
    on TPUs all are: putting the places together takes longer there than the products it saves.

    Args:
        x: [b, h, w, c].
        kernel: [3, 3, c, d].
    """
    if x.shape[1] * x.shape[2] < FOLDED_SITES:
        return convolve_same(_double(x), kernel)
    return _folded(x, kernel)


def _convolve_folded(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h2 w2 d"]:
    b, h, w, c = x.shape
    features = kernel.shape[-1]
    # [pixel, place, pixel, place, c, d] -> [pixel, pixel, c, place, place, d]
    folded = _spread(kernel).reshape(2, 2, 2, 2, c, features).transpose(0, 2, 4, 1, 3, 5)
    y = convolve(x, folded.reshape(2, 2, c, 4 * features), 1, ((1, 1), (1, 1)))
    y = y.reshape(b, h + 1, w + 1, 2, 2, features)
    rows = [
        jnp.stack([y[:, p : p + h, q : q + w, p, q] for q in range(2)], axis=3) for p in range(2)
    ]
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, features)


def _spread(kernel: Float[Array, "3 3 c d"]) -> Float[Array, "4 4 c d"]:
    """Returns the sums of the taps that fall on one original pixel.

    Along each axis, entry 2 t + p is for the t-th of the two pixels that place p within a doubled
    pixel sees.
    """
    for axis in range(2):
        before, after = ([(0, 0)] * 4 for _ in range(2))
        before[axis], after[axis] = (1, 0), (0, 1)
        kernel = jnp.pad(kernel, before) + jnp.pad(kernel, after)
    return kernel


def _double(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


def _by_x(x: Shape, kernel: Array, cotangent: Array) -> Array:
    def strided(kernel, cotangent):
        return convolve(cotangent, _strided_kernel(kernel), 2, ((1, 1), (1, 1)))

    def doubled(kernel, cotangent):
        convolution = lambda x: plain_convolve(_double(x), kernel)  # noqa: E731
        return jax.linear_transpose(convolution, x)(cotangent)[0]

    return jax.lax.platform_dependent(kernel, cotangent, cpu=strided, default=doubled)


def _by_kernel(x: Array, kernel: Shape, cotangent: Array) -> Array:
    def strided(x, cotangent):
        to_kernel = jax.linear_transpose(_strided_kernel, kernel)
        shape = jax.eval_shape(_strided_kernel, kernel)
        return to_kernel(kernel_gradient_by_strips(cotangent, shape, x, stride=2))[0]

    def doubled(x, cotangent):
        convolution = partial(plain_convolve, _double(x))
        return jax.linear_transpose(convolution, kernel)(cotangent)[0]

    return jax.lax.platform_dependent(x, cotangent, cpu=strided, default=doubled)


def _strided_kernel(kernel: Float[Array, "3 3 c d"]) -> Float[Array, "4 4 d c"]:
    """Returns the kernel that convolves the cotangent."""
    return _spread(kernel)[::-1, ::-1].transpose(0, 1, 3, 2)


def _forward(x: Array, kernel: Array) -> Array:
    def doubled(x, kernel):
        return plain_convolve(_double(x), kernel)

    return jax.lax.platform_dependent(x, kernel, tpu=doubled, default=_convolve_folded)


_folded = bilinear(_forward, _by_x, _by_kernel)
