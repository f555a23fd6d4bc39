"""Shift-tolerant AlexNet and VGG16, the trunks of ST-LPIPS (arXiv 2207.13686).

Every step that halves a map first computes it at full size, then blurs it and keeps every second
site (BlurPool, arXiv 1904.11486).
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from codeformer_jax.nn.cpu.conv_gradients import convolve
from codeformer_jax.nn.layers import Conv, sum_dtype

# Filter along each axis; weights with another one are refused when they are converted.
BLUR = (0.25, 0.5, 0.25)
# The filter at the last site of a map of even size, where it meets a mirrored value.
_LAST_BLUR = (0.5, 0.5)
_NO_PADDING = ((0, 0), (0, 0))


class BlurredConv(Conv):
    """Fused convolution (padding 2) and `blurred_half`; the map in between is never built.

    The blur is part of the kernel, which makes the gradient by the input ten times as fast on CPUs.
    The map before the blur must have at least three sites along each axis.
    """

    def _convolve(self, x, kernel):
        side = self.kernel_size
        even = [(size + 5 - side) % 2 == 0 for size in x.shape[1:3]]  # Sizes before the blur.
        x = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
        rows = [(x, BLUR), (x[:, -side - 1 :], _LAST_BLUR)][: 1 + even[0]]
        y = jnp.concatenate(
            [self._row(row, _spread(kernel, 0, blur), even[1]) for row, blur in rows], axis=1
        )
        # The first output equals the second. The last one of an odd size equals its neighbour.
        return jnp.pad(y, ((0, 0), (1, 1 - even[0]), (1, 1 - even[1]), (0, 0)), mode="edge")

    def _row(self, x, kernel, even):
        columns = [(x, BLUR), (x[:, :, -self.kernel_size - 1 :], _LAST_BLUR)][: 1 + even]
        parts = [convolve(part, _spread(kernel, 1, blur), 2, _NO_PADDING) for part, blur in columns]
        return jnp.concatenate(parts, axis=2)


class ShiftTolerantAlexNet(nn.Module):
    """Activations 'relu1' to 'relu5' of ImageNet-normalised images [b, h, w, 3]."""

    min_size: ClassVar[int] = 21  # Smallest side in pixels.

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> dict[str, Float[Array, "..."]]:
        x = nn.relu(BlurredConv(64, 11, dtype=self.dtype, name="conv1")(images))
        activations = {"relu1": x.astype(sum_dtype(self.dtype))}
        for i, (width, side) in enumerate(((192, 5), (384, 3), (256, 3), (256, 3)), start=2):
            if i <= 3:
                x = blurred_half(dense_max(x, 3))
            x = nn.relu(Conv(width, side, dtype=self.dtype, name=f"conv{i}")(x))
            activations[f"relu{i}"] = x.astype(sum_dtype(self.dtype))
        return activations


class ShiftTolerantVGG(nn.Module):
    """Activations of the last layer of VGG16's five blocks, 'relu1_2' to 'relu5_3'.

    Images [b, h, w, 3] are ImageNet-normalised.
    """

    min_size: ClassVar[int] = 18  # Smallest side in pixels.

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> dict[str, Float[Array, "..."]]:
        x, activations = images, {}
        blocks = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
        for block, (width, layers) in enumerate(blocks, start=1):
            if block > 1:
                x = blurred_half(dense_max(x, 2))
            for i in range(1, layers + 1):
                x = nn.relu(Conv(width, dtype=self.dtype, name=f"conv{block}_{i}")(x))
            activations[f"relu{block}_{layers}"] = x.astype(sum_dtype(self.dtype))
        return activations


def dense_max(x: Float[Array, "b h w c"], side: int) -> Float[Array, "b h2 w2 c"]:
    """Returns the maxima of all squares of `side` sites that lie inside the map.

    Pairwise maxima have faster gradients on CPUs than `nn.max_pool`. Equal values share a gradient.

    Args:
        x: [b, h, w, c].
        side: side of the squares.
    """
    for axis in (1, 2):
        before, last = (slice(None),) * axis, x.shape[axis] - side + 1
        x, *others = [x[(*before, slice(i, i + last))] for i in range(side)]
        for other in others:
            x = jnp.maximum(x, other)
    return x


def blurred_half(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Returns every second site of the blurred map: [b, h // 2 + 1, w // 2 + 1, c] for even h, w.

    The map has at least three sites along each axis. Two mirrored ones extend it on every side.
    """
    rows, columns = (jnp.asarray(_blur_matrix(size), x.dtype) for size in x.shape[1:3])
    return jnp.einsum("jw,biwc->bijc", columns, jnp.einsum("ih,bhwc->biwc", rows, x))


def _blur_matrix(size):
    """Returns the matrix [(size + 1) // 2 + 1, size] that mirrors, blurs and halves an axis."""
    mirrored = np.pad(np.arange(size), 2, mode="reflect")
    matrix = np.zeros(((size + 1) // 2 + 1, size))
    for i, row in enumerate(matrix):
        for offset, weight in enumerate(BLUR):
            row[mirrored[2 * i + offset]] += weight
    return matrix


def _spread(kernel, axis, blur):
    """Returns the kernel convolved with a filter along an axis."""
    total = 0.0
    for i, weight in enumerate(blur):
        pads = [(0, 0)] * kernel.ndim
        pads[axis] = (i, len(blur) - 1 - i)
        total += weight * jnp.pad(kernel, pads)
    return total
