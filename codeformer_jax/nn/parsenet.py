"""ParseNet: regions of a face, from a residual encoder and decoder.

The network is that of GFPGAN's and CodeFormer's releases (facexlib), trained on CelebAMask-HQ.
"""

from collections.abc import Sequence

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from codeformer_jax.nn.layers import BatchNorm, Conv, DoublingConv, sum_dtype
from codeformer_jax.ops.checks import AnyArray, as_images

_SLOPE = 0.2


@flax.struct.dataclass
class ParseNetOutput:
    """Regions of faces [b, h, w, 3].

    Attributes:
        logits: of the classes, [b, h, w, classes].
        image: [b, h, w, 3]; the published network was also trained to enhance the face.
    """

    logits: Float[Array, "b h w classes"]
    image: Float[Array, "b h w 3"]


class ConvLayer(nn.Module):
    """3x3 convolution with mirrored borders; halves or doubles the map if `resample` is set.

    Attributes:
        features: channels of the result.
        resample: None, 'down' (stride 2) or 'up' (nearest-neighbour doubling first).
        norm: adds a batch norm, in place of a bias.
        activate: adds a LeakyReLU.
    """

    features: int
    resample: str | None = None
    norm: bool = False
    activate: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        borders = ((0, 0), (1, 1), (1, 1), (0, 0))
        fields = {"use_bias": not self.norm, "dtype": self.dtype, "name": "conv2d"}
        if self.resample == "up":
            # Mirrored at its border, a doubled map repeats the original's edge.
            doubled = DoublingConv(self.features, **fields)(jnp.pad(x, borders, mode="edge"))
            x = doubled[:, 2:-2, 2:-2]
        else:
            stride = 2 if self.resample == "down" else 1
            x = jnp.pad(x, borders, mode="reflect")
            x = Conv(self.features, stride=stride, padding=((0, 0), (0, 0)), **fields)(x)
        if self.norm:
            x = BatchNorm(dtype=self.dtype, name="norm")(x)
        return nn.leaky_relu(x, _SLOPE) if self.activate else x


class ResidualBlock(nn.Module):
    """Two convolutions plus the input, which is convolved where size or width change.

    A block that halves the map does so in its second convolution, one that doubles it in its first.
    """

    features: int
    resample: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        first, second = (self.resample if self.resample == way else None for way in ("up", "down"))
        y = ConvLayer(self.features, first, True, True, self.dtype, name="conv1")(x)
        y = ConvLayer(self.features, second, True, False, self.dtype, name="conv2")(y)
        if self.resample or x.shape[-1] != self.features:
            x = ConvLayer(self.features, self.resample, dtype=self.dtype, name="shortcut_func")(x)
        return x + y


class ParseNet(nn.Module):
    """Parses faces [b, h, w, 3] in [-1, 1]; the published network takes aligned faces of 512 px.

    The collection 'batch_stats' holds the statistics of the norms; they are not updated.

    Attributes:
        widths: channels from the image's size down to the smallest map; each step halves the map.
        res_blocks: residual blocks at the smallest size.
        classes: number of classes.
        dtype: dtype of the computation; the outputs are float32.

    Raises:
        ValueError: at construction, for sizes that are not positive.
    """

    widths: Sequence[int] = (64, 128, 256, 256, 256)
    res_blocks: int = 10
    classes: int = 19
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        if min(*self.widths, self.res_blocks, self.classes) < 1 or len(self.widths) < 2:
            raise ValueError(
                "widths (at least two), res_blocks and classes must be positive; got "
                f"{tuple(self.widths)}, {self.res_blocks} and {self.classes}"
            )
        super().__post_init__()

    def min_size(self) -> int:
        """Returns the smallest side in pixels; every other is a multiple of half of it."""
        return 2 ** len(self.widths)

    @nn.compact
    def __call__(self, images: AnyArray) -> ParseNetOutput:
        """Returns the classes' logits.

        Args:
            images: float32 [b, h, w, 3] in [-1, 1].

        Raises:
            ValueError, TypeError: for images of another form; the message says what to pass.
        """
        images = as_images(images, dtype=self.dtype)
        least = self.min_size()
        if any(side % (least // 2) or side < least for side in images.shape[1:3]):
            raise ValueError(
                f"images are {images.shape[1]}x{images.shape[2]} px; expected sides of at least "
                f"{least} px that are multiples of {least // 2}"
            )
        first, *further = self.widths
        x = ConvLayer(first, dtype=self.dtype, name="encoder_0")(images)
        for i, width in enumerate(further, start=1):
            x = ResidualBlock(width, "down", self.dtype, name=f"encoder_{i}")(x)
        y = x
        for i in range(self.res_blocks):
            y = ResidualBlock(self.widths[-1], None, self.dtype, name=f"body_{i}")(y)
        x = x + y
        for i, width in enumerate(reversed(self.widths[:-1])):
            x = ResidualBlock(width, "up", self.dtype, name=f"decoder_{i}")(x)
        image = ConvLayer(3, dtype=self.dtype, name="out_img_conv")(x)
        logits = ConvLayer(self.classes, dtype=self.dtype, name="out_mask_conv")(x)
        wide = sum_dtype(self.dtype)
        return ParseNetOutput(logits.astype(wide), image.astype(wide))
