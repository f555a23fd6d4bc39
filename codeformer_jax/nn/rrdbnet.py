"""RRDBNet: enlargement by residual-in-residual dense blocks (ESRGAN, arXiv 1809.00219).

The variant is that of Real-ESRGAN (arXiv 2107.10833): every network enlarges its input four times,
and one for a smaller scale folds pixels into channels first.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from codeformer_jax.nn.layers import Conv, DoublingConv, sum_dtype
from codeformer_jax.ops.checks import AnyArray, as_images

SCALES = (1, 2, 4)
# Share of a block's result that is added to its input.
_RESIDUAL_SCALE = 0.2
_SLOPE = 0.2


class DenseBlock(nn.Module):
    """Five 3x3 convolutions, each over all maps before it; a fifth of the last plus the input."""

    growth: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        maps = x
        for i in range(1, 5):
            y = Conv(self.growth, dtype=self.dtype, name=f"conv{i}")(maps)
            maps = jnp.concatenate([maps, nn.leaky_relu(y, _SLOPE)], axis=-1)
        y = Conv(x.shape[-1], dtype=self.dtype, name="conv5")(maps)
        return x + _RESIDUAL_SCALE * y


class RRDB(nn.Module):
    """Three dense blocks; a fifth of the last plus the input."""

    growth: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = x
        for i in range(1, 4):
            y = DenseBlock(self.growth, self.dtype, name=f"rdb{i}")(y)
        return x + _RESIDUAL_SCALE * y


class RRDBNet(nn.Module):
    """Enlarges images [b, h, w, 3] in [0, 1] to [b, scale * h, scale * w, 3], not clipped.

    The defaults are the published RealESRGAN_x2plus.

    Attributes:
        scale: 1, 2 or 4.
        width: channels of the maps between blocks.
        blocks: number of residual-in-residual dense blocks.
        growth: channels that each convolution of a dense block adds.
        dtype: dtype of the computation; the result is float32.

    Raises:
        ValueError: at construction, for sizes that are not positive or another scale.
    """

    scale: int = 2
    width: int = 64
    blocks: int = 23
    growth: int = 32
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        if self.scale not in SCALES:
            raise ValueError(f"scale is {self.scale}; expected one of {SCALES}")
        if min(self.width, self.blocks, self.growth) < 1:
            raise ValueError(
                f"width, blocks and growth must be positive; got {self.width}, {self.blocks} and "
                f"{self.growth}"
            )
        super().__post_init__()

    @property
    def fold(self) -> int:
        """Side of the square of pixels that is folded into channels; it divides h and w."""
        return 4 // self.scale

    @property
    def reach(self) -> int:
        """Distance in pixels of the input beyond which a pixel cannot affect the result.

        It grows with the blocks: 15 convolutions each, at the folded size.
        """
        return self.fold * (15 * self.blocks + 4)

    @nn.compact
    def __call__(self, images: AnyArray) -> Float[Array, "b h2 w2 3"]:
        """Returns the enlarged images.

        Args:
            images: float32 [b, h, w, 3] in [0, 1]; h and w are multiples of 4 / scale.

        Raises:
            ValueError, TypeError: for images of another form; the message says what to pass.
        """
        images = as_images(images, low=0, dtype=self.dtype)
        if any(side % self.fold for side in images.shape[1:3]):
            raise ValueError(
                f"images are {images.shape[1]}x{images.shape[2]} px; a network for scale "
                f"{self.scale} needs multiples of {self.fold}: extend them by their edges"
            )
        x = Conv(self.width, dtype=self.dtype, name="conv_first")(_folded(images, self.fold))
        y = x
        for i in range(self.blocks):
            y = RRDB(self.growth, self.dtype, name=f"body_{i}")(y)
        x = x + Conv(self.width, dtype=self.dtype, name="conv_body")(y)
        for i in (1, 2):
            x = DoublingConv(self.width, dtype=self.dtype, name=f"conv_up{i}")(x)
            x = nn.leaky_relu(x, _SLOPE)
        x = nn.leaky_relu(Conv(self.width, dtype=self.dtype, name="conv_hr")(x), _SLOPE)
        return Conv(3, dtype=self.dtype, name="conv_last")(x).astype(sum_dtype(self.dtype))


def _folded(images: Float[Array, "b h w c"], fold: int) -> Float[Array, "b h2 w2 d"]:
    """Folds squares of pixels into channels, in PyTorch's order: colour, row, column."""
    b, h, w, c = images.shape
    squares = images.reshape(b, h // fold, fold, w // fold, fold, c)
    return squares.transpose(0, 1, 3, 5, 2, 4).reshape(b, h // fold, w // fold, c * fold**2)
