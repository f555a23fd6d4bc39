"""Convolution, normalisation, residual and attention blocks of the VQGAN family.

Arrays are NHWC. Parameters are float32; `dtype` is the dtype of the computation, while the
statistics of norms and the softmax stay in float32.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from codeformer_jax.nn.conv_gradients import (
    Padding,
    convolve,
    convolve_same,
    kernel_gradient_by_strips,
)

# Sites of a map from which on the convolution of the doubled map is folded.
FOLDED_SITES = 1024


def fan_in_uniform(fan_in: int):
    """Initializer U(-b, b) with b = 1 / sqrt(fan_in): PyTorch's default for kernel and bias."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Conv(nn.Module):
    """Square convolution [b, h, w, c] -> [b, h', w', features] with PyTorch's initial weights.

    `padding` is in pixels, the default keeps h and w at stride 1. `zero_init` starts kernel and
    bias at zero, so that a block that adds this output starts as the identity.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: Padding | None = None
    use_bias: bool = True
    zero_init: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        side, fan_in = self.kernel_size, self.kernel_size**2 * x.shape[-1]
        init = nn.initializers.zeros if self.zero_init else fan_in_uniform(fan_in)
        kernel = self.param("kernel", init, (side, side, x.shape[-1], self.features), jnp.float32)
        y = self._convolve(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", init, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)[None, None, None, :]
        return y

    def _convolve(self, x, kernel):
        half = self.kernel_size // 2
        same = ((half, half), (half, half))
        padding = self.padding or same
        if self.kernel_size in (1, 3) and self.stride == 1 and padding == same:
            return convolve_same(x, kernel)
        return convolve(x, kernel, self.stride, padding)


class DoublingConv(Conv):
    """3x3 convolution of the nearest-neighbour doubled input."""

    def _convolve(self, x, kernel):
        return doubling_convolve(x, kernel)


def _convolve_doubled(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h2 w2 d"]:
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return convolve_same(x.reshape(b, 2 * h, 2 * w, c), kernel)


def _spread(kernel: Float[Array, "3 3 c d"]) -> Float[Array, "4 4 c d"]:
    """Sums of the taps that fall on one original pixel, for both places on it along each axis."""
    for axis in range(2):
        before, after = ([(0, 0)] * 4 for _ in range(2))
        before[axis], after[axis] = (1, 0), (0, 1)
        kernel = jnp.pad(kernel, before) + jnp.pad(kernel, after)
    return kernel


@jax.custom_vjp
def doubling_convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h2 w2 d"]:
    """Convolves the nearest-neighbour doubled `x`, [b, 2h, 2w, d], without doubling it first.

    A pixel of the doubled image sees only 2x2 pixels of the original, so the 3x3 kernel folds
    into four 2x2 kernels, one for each place within a doubled pixel: the same numbers for 4/9 of
    the products. Seen from the result it is a 4x4 convolution of stride 2, transposed, and on CPUs
    its gradients are made of that: again 4/9. Elsewhere they are XLA's of the doubled form. Small
    maps are doubled in both directions, since folding the kernel would cost more.
    """
    b, h, w, c = x.shape
    if h * w < FOLDED_SITES:
        return _convolve_doubled(x, kernel)
    features = kernel.shape[-1]
    # [tap, place, tap, place, c, d] -> [tap, tap, c, place, place, d]
    folded = _spread(kernel).reshape(2, 2, 2, 2, c, features).transpose(0, 2, 4, 1, 3, 5)
    y = convolve(x, folded.reshape(2, 2, c, 4 * features), 1, ((1, 1), (1, 1)))
    y = y.reshape(b, h + 1, w + 1, 2, 2, features)
    rows = [
        jnp.stack([y[:, p : p + h, q : q + w, p, q] for q in range(2)], axis=3) for p in range(2)
    ]
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, features)


def _gradients_of_doubled(x, kernel, cotangent):
    return jax.vjp(_convolve_doubled, x, kernel)[1](cotangent)


def _gradients_of_strided(x, kernel, cotangent):
    """Those of `_gradients_of_doubled`, through the strided convolution of the cotangent."""

    def transposed(kernel):
        return _spread(kernel)[::-1, ::-1].transpose(0, 1, 3, 2)

    strided, spread_gradient = jax.vjp(transposed, kernel)
    by_strided = kernel_gradient_by_strips(cotangent, strided, x, stride=2)
    return convolve(cotangent, strided, 2, ((1, 1), (1, 1))), *spread_gradient(by_strided)


def _doubling_backward(residuals, cotangent):
    x = residuals[0]
    folded = x.shape[1] * x.shape[2] >= FOLDED_SITES
    return jax.lax.platform_dependent(
        *residuals,
        cotangent,
        cpu=_gradients_of_strided if folded else _gradients_of_doubled,
        default=_gradients_of_doubled,
    )


doubling_convolve.defvjp(
    lambda x, kernel: (doubling_convolve(x, kernel), (x, kernel)), _doubling_backward
)


def swish(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """x * sigmoid(x), through tanh, which XLA vectorises better on the CPU."""
    return x * (0.5 * jnp.tanh(0.5 * x) + 0.5)


class GroupNorm(nn.Module):
    """Group normalisation over (h, w, channels of a group), eps 1e-6, statistics in float32."""

    groups: int = 32
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        x = x.astype(jnp.float32)
        mean = self._group_mean(jnp.mean(x, axis=(1, 2)))
        centred = x - mean[:, None, None, :]
        variance = self._group_mean(jnp.mean(jnp.square(centred), axis=(1, 2)))
        gain = jax.lax.rsqrt(variance + self.epsilon) * scale[None, :]
        return (centred * gain[:, None, None, :] + bias[None, None, None, :]).astype(self.dtype)

    def _group_mean(self, x: Float[Array, "b c"]) -> Float[Array, "b c"]:
        """Replaces every channel's value with the mean over its group."""
        b, c = x.shape
        means = x.reshape(b, self.groups, c // self.groups).mean(axis=-1)
        return jnp.repeat(means, c // self.groups, axis=-1)


class ResBlock(nn.Module):
    """norm, swish, conv, twice, plus the input (through a 1x1 conv where widths differ)."""

    features: int
    norm_groups: int = 32
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        y = swish(GroupNorm(self.norm_groups, dtype=self.dtype, name="norm1")(x))
        y = Conv(self.features, dtype=self.dtype, name="conv1")(y)
        y = swish(GroupNorm(self.norm_groups, dtype=self.dtype, name="norm2")(y))
        y = Conv(self.features, dtype=self.dtype, name="conv2")(y)
        if x.shape[-1] != self.features:
            x = Conv(self.features, kernel_size=1, dtype=self.dtype, name="conv_out")(x)
        return x + y


class LayerNorm(nn.LayerNorm):
    """Flax's, with PyTorch's eps and in every dtype also under strict promotion."""

    epsilon: float = 1e-5

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        with jax.numpy_dtype_promotion("standard"):
            return super().__call__(x)


def attend(
    queries: Float[Array, "b n heads d"],
    keys: Float[Array, "b n heads d"],
    values: Float[Array, "b n heads d"],
) -> Float[Array, "b n heads d"]:
    """softmax(q k^T / sqrt(d)) v of every head, the softmax in float32."""
    # JAX's own function asks for the promotion of bfloat16 with float32, which strict mode refuses.
    with jax.numpy_dtype_promotion("standard"):
        return jax.nn.dot_product_attention(queries, keys, values)


class AttentionBlock(nn.Module):
    """Single-head self-attention over all h x w sites with 1x1 projections, plus the input."""

    norm_groups: int = 32
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        y = GroupNorm(self.norm_groups, dtype=self.dtype, name="norm")(x)
        q, k, v = (
            Conv(c, kernel_size=1, dtype=self.dtype, name=name)(y).reshape(b, h * w, 1, c)
            for name in ("q", "k", "v")
        )
        y = attend(q, k, v).reshape(b, h, w, c)
        return x + Conv(c, kernel_size=1, dtype=self.dtype, name="proj_out")(y)


class Downsample(nn.Module):
    """3x3 convolution of stride 2 after zero padding by one pixel at the bottom and the right."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        padding = ((0, 1), (0, 1))
        return Conv(x.shape[-1], stride=2, padding=padding, dtype=self.dtype, name="conv")(x)


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3x3 convolution."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        return DoublingConv(x.shape[-1], dtype=self.dtype, name="conv")(x)
