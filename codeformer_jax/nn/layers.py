"""Convolution, normalisation, residual and attention blocks of the VQGAN family.

Arrays are NHWC. Parameters are float32 and `dtype` is the dtype of the computation. The statistics
of norms, the softmax and the logits of heads stay in float32.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from codeformer_jax.nn.cpu.conv_gradients import Padding, convolve, convolve_same
from codeformer_jax.nn.cpu.doubling import doubling_convolve


def fan_in_uniform(fan_in: int):
    """Returns the initializer U(-b, b) with b = 1 / sqrt(fan_in), PyTorch's default."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Conv(nn.Module):
    """Square convolution [b, h, w, c] -> [b, h', w', features] with PyTorch's initial weights.

    Attributes:
        padding: ((top, bottom), (left, right)) in pixels; None keeps h and w at stride 1.
        zero_init: starts kernel and bias at zero, so that a residual block starts as the identity.
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


def sum_dtype(dtype: DTypeLike) -> DTypeLike:
    """Returns the dtype in which a head sums its products: float32, or float64 for float64."""
    return dtype if jnp.dtype(dtype).itemsize > 4 else jnp.float32


def wide_dot_general(
    x: Array, kernel: Array, dimension_numbers: Any, precision: Any = None
) -> Array:
    """Returns `jax.lax.dot_general` without rounding the float32 sums to the inputs' dtype.

    Logits of a head need this: in bfloat16 the two largest are often equal. Gradients are those of
    a result in the inputs' dtype, whose products an accelerator computes faster.

    Args:
        x, kernel, dimension_numbers, precision: see `jax.lax.dot_general`.
    """
    return _wide_product(x, kernel, dimension_numbers, precision)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _wide_product(x, kernel, dimension_numbers, precision):
    y = jax.lax.dot_general(
        x, kernel, dimension_numbers, precision, preferred_element_type=sum_dtype(x.dtype)
    )
    return y.astype(sum_dtype(x.dtype))


@_wide_product.defjvp
def _wide_jvp(dimension_numbers, precision, primals, tangents):
    def product(x, kernel):
        return jax.lax.dot_general(x, kernel, dimension_numbers, precision)

    (x, kernel), (dx, dkernel) = primals, tangents
    tangent = product(dx, kernel) + product(x, dkernel)
    return _wide_product(x, kernel, dimension_numbers, precision), tangent.astype(
        sum_dtype(x.dtype)
    )


def swish(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Returns x * sigmoid(x), computed by tanh, which XLA vectorises better on CPUs."""
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
        x = x.astype(sum_dtype(x.dtype))
        mean = self._group_mean(jnp.mean(x, axis=(1, 2)))
        # Subtracting a constant that equals the mean gives the same values. Gradients then need
        # sums of the cotangent only, and no float32 map: see docs/distributed.md.
        centre = jax.lax.stop_gradient(mean)
        centred = x - centre[:, None, None, :]
        squares = self._group_mean(jnp.mean(jnp.square(centred), axis=(1, 2)))
        variance = squares - jnp.square(mean - centre)
        gain = jax.lax.rsqrt(variance + self.epsilon) * scale[None, :]
        shift = (centre - mean) * gain + bias[None, :]
        return (centred * gain[:, None, None, :] + shift[:, None, None, :]).astype(self.dtype)

    def _group_mean(self, x: Float[Array, "b c"]) -> Float[Array, "b c"]:
        """Replaces every channel's value by the mean of its group."""
        b, c = x.shape
        means = x.reshape(b, self.groups, c // self.groups).mean(axis=-1)
        return jnp.repeat(means, c // self.groups, axis=-1)


class ResBlock(nn.Module):
    """norm, swish, conv, twice, plus the input (through a 1x1 conv if widths differ)."""

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
    """Flax's LayerNorm with PyTorch's epsilon, for any dtype under strict promotion."""

    epsilon: float = 1e-5

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        with jax.numpy_dtype_promotion("standard"):
            return super().__call__(x)


class BatchNorm(nn.BatchNorm):
    """Flax's BatchNorm by its running statistics, with PyTorch's epsilon, for any dtype."""

    use_running_average: bool | None = True
    epsilon: float = 1e-5

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        # Flax subtracts float32 statistics from the input, whatever its dtype.
        with jax.numpy_dtype_promotion("standard"):
            return super().__call__(x)


def attend(
    queries: Float[Array, "b n heads d"],
    keys: Float[Array, "b n heads d"],
    values: Float[Array, "b n heads d"],
) -> Float[Array, "b n heads d"]:
    """Returns softmax(q k^T / sqrt(d)) v for every head, with the softmax in float32 or wider.

    Args:
        queries, keys, values: [b, n, heads, d].
    """
    if queries.dtype.itemsize > 4:  # JAX's function takes the softmax in float32.
        scores = jnp.einsum("bqhd,bkhd->bhqk", queries, keys) / math.sqrt(queries.shape[-1])
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), values)
    # JAX's function promotes bfloat16 with float32, which strict mode refuses.
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
