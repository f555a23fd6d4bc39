"""RetinaFace: single-shot detection of faces with five points (arXiv 1905.00641).

A ResNet-50 or a MobileNet of a quarter width, a feature pyramid at strides 8, 16 and 32, a context
module (SSH, arXiv 1708.03979) and three 1x1 heads per stride. Names are those of the PyTorch
release.
"""

from collections.abc import Sequence

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from codeformer_jax.nn.layers import BatchNorm, Conv, sum_dtype
from codeformer_jax.ops.checks import AnyArray, as_images

BACKBONES = ("resnet50", "mobilenet")
STRIDES = (8, 16, 32)
# Anchors per site: two sides for each stride.
ANCHORS = 2
_RESNET_BLOCKS = (3, 4, 6, 3)
# Widths, in multiples of the stem's, and strides of the MobileNet's separable convolutions.
_MOBILENET_STAGES = (
    ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1)),
    ((16, 2), (16, 1), (16, 1), (16, 1), (16, 1), (16, 1)),
    ((32, 2), (32, 1)),
)
_SLOPE = 0.1
# Widest pyramid whose activations are leaky; wider ones have plain ReLUs.
_LEAKY_WIDTH = 64

# [b, h, w, c]; sides and channels of arguments and results differ.
Map = Float[Array, "_ _ _ _"]
# Height and width of the valid corner of each map; None if all of it is valid.
Valid = Int[Array, "_ 2"] | None


@flax.struct.dataclass
class RetinaFaceOutput:
    """Predictions for all anchors: by stride, row, column, then side.

    Attributes:
        boxes: offsets of centre and logarithmic size, [b, n, 4].
        logits: of background and face, [b, n, 2].
        points: offsets of five points (x, y), [b, n, 10].
    """

    boxes: Float[Array, "b n 4"]
    logits: Float[Array, "b n 2"]
    points: Float[Array, "b n 10"]


def halved(valid: Valid) -> Valid:
    """Returns the valid sizes after a stride of 2."""
    return None if valid is None else (valid + 1) // 2


def cleared(x: Map, valid: Valid) -> Map:
    """Returns a map with zeros beyond its valid corner.

    A convolution then sees the same as at the border of a map without padding.
    """
    if valid is None:
        return x
    rows, columns = (
        jnp.arange(side, dtype=valid.dtype)[None, :] < valid[:, axis, None]
        for axis, side in enumerate(x.shape[1:3])
    )
    return jnp.where(rows[:, :, None, None] & columns[:, None, :, None], x, 0)


class ConvNorms(nn.Module):
    """Base of modules that consist of convolutions with a batch norm each."""

    def conv_norm(
        self,
        x: Map,
        valid: Valid,
        features: int,
        names: tuple[str, str],
        *,
        kernel_size: int = 3,
        stride: int = 1,
        slope: float | None = None,
    ) -> Map:
        """Returns a LeakyReLU of a batch norm of a convolution without bias.

        Args:
            x: map.
            valid: its valid sizes.
            features: channels of the result.
            names: of the convolution and of the norm.
            kernel_size, stride: of the convolution.
            slope: of the activation for negative values; None for no activation.
        """
        if kernel_size > 1:
            x = cleared(x, valid)
        half = kernel_size // 2
        fields = {"use_bias": False, "dtype": self.dtype, "name": names[0]}
        conv = Conv(features, kernel_size, stride, ((half, half), (half, half)), **fields)
        return self._activated(conv(x), names[1], slope)

    def depthwise_norm(
        self, x: Map, valid: Valid, names: tuple[str, str], *, stride: int, slope: float
    ) -> Map:
        """Returns `conv_norm` with a 3x3 convolution of each channel by itself.

        Args:
            x, valid, names, stride, slope: see `conv_norm`.
        """
        channels = x.shape[-1]
        conv = nn.Conv(
            channels,
            (3, 3),
            strides=stride,
            padding=1,
            feature_group_count=channels,
            use_bias=False,
            dtype=self.dtype,
            name=names[0],
        )
        return self._activated(conv(cleared(x, valid)), names[1], slope)

    def _activated(self, x: Map, name: str, slope: float | None) -> Map:
        x = BatchNorm(dtype=self.dtype, name=name)(x)
        return x if slope is None else nn.leaky_relu(x, slope)


class Bottleneck(ConvNorms):
    """1x1, 3x3 and 1x1 convolution plus the input; the result is four times as wide."""

    width: int
    stride: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Map, valid: Valid) -> Map:
        names = [(f"conv{i}", f"bn{i}") for i in (1, 2, 3)]
        y = self.conv_norm(x, valid, self.width, names[0], kernel_size=1, slope=0.0)
        y = self.conv_norm(y, valid, self.width, names[1], stride=self.stride, slope=0.0)
        y = self.conv_norm(y, valid, 4 * self.width, names[2], kernel_size=1)
        if x.shape != y.shape:
            names, wide = ("downsample_0", "downsample_1"), 4 * self.width
            x = self.conv_norm(x, valid, wide, names, kernel_size=1, stride=self.stride)
        return nn.relu(x + y)


class ResNet(ConvNorms):
    """ResNet-50; images -> maps of stride 8, 16 and 32."""

    stem: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Map, valid: Valid) -> tuple[Map, ...]:
        x = self.conv_norm(
            x, valid, self.stem, ("conv1", "bn1"), kernel_size=7, stride=2, slope=0.0
        )
        valid = halved(valid)
        # No value is negative, so that zeros stand for nothing.
        x = nn.max_pool(cleared(x, valid), (3, 3), (2, 2), ((1, 1), (1, 1)))
        valid, maps = halved(valid), []
        for layer, blocks in enumerate(_RESNET_BLOCKS):
            for i in range(blocks):
                stride = 2 if layer and not i else 1
                block = Bottleneck(
                    self.stem * 2**layer, stride, self.dtype, name=f"layer{layer + 1}_{i}"
                )
                x = block(x, valid)
                valid = halved(valid) if stride == 2 else valid
            maps.append(x)
        return tuple(maps[1:])


class MobileNetStage(ConvNorms):
    """Separable convolutions, after a plain one where `first` is set."""

    blocks: Sequence[tuple[int, int]]
    stem: int
    first: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Map, valid: Valid) -> tuple[Map, Valid]:
        if self.first:
            x = self.conv_norm(x, valid, self.stem, ("0_0", "0_1"), stride=2, slope=_SLOPE)
            valid = halved(valid)
        # Names count convolutions, norms and activations, as PyTorch's Sequential does.
        for i, (width, stride) in enumerate(self.blocks, start=int(self.first)):
            names = (f"{i}_0", f"{i}_1")
            x = self.depthwise_norm(x, valid, names, stride=stride, slope=_SLOPE)
            valid = halved(valid) if stride == 2 else valid
            names, wide = (f"{i}_3", f"{i}_4"), width * self.stem
            x = self.conv_norm(x, valid, wide, names, kernel_size=1, slope=_SLOPE)
        return x, valid


class MobileNet(nn.Module):
    """MobileNet (arXiv 1704.04861); images -> maps of stride 8, 16 and 32."""

    stem: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Map, valid: Valid) -> tuple[Map, ...]:
        maps = []
        for i, blocks in enumerate(_MOBILENET_STAGES):
            stage = MobileNetStage(blocks, self.stem, i == 0, self.dtype, name=f"stage{i + 1}")
            x, valid = stage(x, valid)
            maps.append(x)
        return tuple(maps)


class FeaturePyramid(ConvNorms):
    """Maps of one width, to each of which the next coarser one is added."""

    width: int
    slope: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, maps: Sequence[Map], valid: Sequence[Valid]) -> tuple[Map, ...]:
        found = []
        for i in (3, 2, 1):
            names, size = (f"output{i}_0", f"output{i}_1"), valid[i - 1]
            x = self.conv_norm(
                maps[i - 1], size, self.width, names, kernel_size=1, slope=self.slope
            )
            if found:
                h, w = x.shape[1:3]
                doubled = jnp.repeat(jnp.repeat(found[-1], 2, axis=1), 2, axis=2)
                names = (f"merge{i}_0", f"merge{i}_1")
                x = self.conv_norm(
                    x + doubled[:, :h, :w], size, self.width, names, slope=self.slope
                )
            found.append(x)
        return tuple(reversed(found))


class Context(ConvNorms):
    """SSH: branches that see 3x3, 5x5 and 7x7 sites, side by side."""

    width: int
    slope: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Map, valid: Valid) -> Map:
        def branch(x, width, name, slope=None):
            return self.conv_norm(x, valid, width, (f"{name}_0", f"{name}_1"), slope=slope)

        half, quarter = self.width // 2, self.width // 4
        near = branch(x, half, "conv3X3")
        shared = branch(x, quarter, "conv5X5_1", self.slope)
        middle = branch(shared, quarter, "conv5X5_2")
        far = branch(branch(shared, quarter, "conv7X7_2", self.slope), quarter, "conv7x7_3")
        return nn.relu(jnp.concatenate([near, middle, far], axis=-1))


class Head(nn.Module):
    """1x1 convolution to `features` values per anchor, [b, h * w * anchors, features]."""

    features: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Map) -> Float[Array, "b n d"]:
        wide = ANCHORS * self.features
        y = Conv(wide, kernel_size=1, dtype=self.dtype, name="conv1x1")(x)
        return y.reshape(len(y), -1, self.features).astype(sum_dtype(self.dtype))


class RetinaFace(nn.Module):
    """Predicts boxes and points for the anchors of images [b, h, w, 3] of any size.

    The collection 'batch_stats' holds the statistics of the norms; they are not updated.

    Attributes:
        backbone: 'resnet50' or 'mobilenet'.
        stem: width of the backbone's first convolution: 64 for ResNet-50, 8 for MobileNet 0.25.
        width: width of the pyramid, a multiple of 4: 256 for ResNet-50, 64 for MobileNet 0.25.
        dtype: dtype of the computation; the outputs are float32.

    Raises:
        ValueError: at construction, for another backbone or impossible widths.
    """

    backbone: str = "resnet50"
    stem: int = 64
    width: int = 256
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone is {self.backbone!r}; expected one of {BACKBONES}")
        if self.stem < 1 or self.width < 4 or self.width % 4:
            raise ValueError(
                "stem must be positive and width a positive multiple of 4; got "
                f"{self.stem} and {self.width}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, images: AnyArray, sizes: Int[Array, "b 2"] | None = None
    ) -> RetinaFaceOutput:
        """Returns the predictions for all anchors.

        Args:
            images: float32 [b, h, w, 3], in blue, green, red, 0..255, minus (104, 117, 123).
            sizes: height and width of each image, whose top-left corner it then fills. Anchors in
                that corner get what they would get without the padding; the others have no meaning.

        Raises:
            ValueError, TypeError: for images of another form; the message says what to pass.
        """
        images = as_images(images, dtype=self.dtype)
        body = {"resnet50": ResNet, "mobilenet": MobileNet}[self.backbone]
        maps = body(self.stem, self.dtype, name="body")(images, sizes)
        valid = [None if sizes is None else -(-sizes // stride) for stride in STRIDES]
        slope = _SLOPE if self.width <= _LEAKY_WIDTH else 0.0
        maps = FeaturePyramid(self.width, slope, self.dtype, name="fpn")(maps, valid)
        maps = [
            Context(self.width, slope, self.dtype, name=f"ssh{i + 1}")(x, size)
            for i, (x, size) in enumerate(zip(maps, valid, strict=True))
        ]
        heads = (("BboxHead", 4), ("ClassHead", 2), ("LandmarkHead", 10))
        return RetinaFaceOutput(
            *(
                jnp.concatenate(
                    [Head(n, self.dtype, name=f"{name}_{i}")(x) for i, x in enumerate(maps)], axis=1
                )
                for name, n in heads
            )
        )
