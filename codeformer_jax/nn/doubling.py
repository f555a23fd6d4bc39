"""The 3x3 convolution of a nearest-neighbour doubled map, without doubling it first."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from codeformer_jax.nn.conv_gradients import convolve, convolve_same, kernel_gradient_by_strips

# Sites of a map from which on the kernel is folded. Below, folding it costs about what it saves:
# on a CPU from 16x16 on a little less, on an accelerator 16x16 sites of 512 channels take less time
# than reading and writing their kernel.
FOLDED_SITES = 1024


@jax.custom_vjp
def doubling_convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h2 w2 d"]:
    """Convolves the nearest-neighbour doubled `x`, [b, 2h, 2w, d]; reverse mode only.

    A pixel of the doubled image sees only 2x2 pixels of the original, so the 3x3 kernel folds
    into four 2x2 kernels, one for each place within a doubled pixel: the same numbers for 4/9 of
    the products. The other way round, a pixel of the original is seen by 4x4 pixels: on CPUs the
    gradients are those of that convolution of stride 2, again for 4/9. Elsewhere they are XLA's of
    the doubled form. Small maps are doubled, forward and backward (`FOLDED_SITES`).
    """
    b, h, w, c = x.shape
    if h * w < FOLDED_SITES:
        return _convolve_doubled(x, kernel)
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
    """Sums of the taps that fall on one original pixel.

    Along each axis, entry 2 t + p is for the t-th of the two pixels that place p within a doubled
    pixel sees.
    """
    for axis in range(2):
        before, after = ([(0, 0)] * 4 for _ in range(2))
        before[axis], after[axis] = (1, 0), (0, 1)
        kernel = jnp.pad(kernel, before) + jnp.pad(kernel, after)
    return kernel


def _convolve_doubled(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h2 w2 d"]:
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return convolve_same(x.reshape(b, 2 * h, 2 * w, c), kernel)


def _gradients_of_doubled(x, kernel, cotangent):
    return jax.vjp(_convolve_doubled, x, kernel)[1](cotangent)


def _gradients_of_strided(x, kernel, cotangent):
    def reverse(kernel):
        return _spread(kernel)[::-1, ::-1].transpose(0, 1, 3, 2)

    strided, spread_gradient = jax.vjp(reverse, kernel)
    by_strided = kernel_gradient_by_strips(cotangent, strided, x, stride=2)
    return convolve(cotangent, strided, 2, ((1, 1), (1, 1))), *spread_gradient(by_strided)


def _backward(residuals, cotangent):
    _, h, w, _ = residuals[0].shape
    if h * w < FOLDED_SITES:
        return _gradients_of_doubled(*residuals, cotangent)
    return jax.lax.platform_dependent(
        *residuals, cotangent, cpu=_gradients_of_strided, default=_gradients_of_doubled
    )


doubling_convolve.defvjp(lambda x, kernel: (doubling_convolve(x, kernel), (x, kernel)), _backward)
