"""LPIPS (arXiv 1801.03924) and ST-LPIPS (arXiv 2207.13686), with weights as ordinary variables."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import lpips_j.lpips
from flaxmodels.vgg.vgg import VGG
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from codeformer_jax.nn.shift_tolerant import ShiftTolerantAlexNet, ShiftTolerantVGG
from codeformer_jax.ops.checks import AnyArray, as_images

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class _ChannelSum(nn.Module):
    """1x1 convolution to one channel, as a sum that compilers fuse with what precedes it."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w 1"]:
        init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (1, 1, x.shape[-1], 1), jnp.float32)
        return jnp.sum(x * kernel[..., 0], axis=-1, keepdims=True)


class _LinearHead(nn.Module):
    """Weighted sum of the channels; the submodule's name is the converted weights'."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w 1"]:
        return _ChannelSum(name="layer")(x)


class _Features(VGG):
    """VGG's activations in float32, whatever the dtype of its convolutions."""

    output: str = "activations"
    pretrained: str | None = None
    include_head: bool = False
    ckpt_dir: str | None = None
    dtype: DTypeLike = jnp.float32

    def __call__(self, images: Float[Array, "b h w 3"]) -> dict[str, Float[Array, "..."]]:
        activations = super().__call__(images)
        return {name: x.astype(jnp.float32) for name, x in activations.items()}


class _AlexNet(nn.Module):
    """AlexNet's activations after each convolution; images [b, h, w, 3] in [0, 1]."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> dict[str, Float[Array, "..."]]:
        x, activations = _to_imagenet(2 * images - 1), {}
        # Width, side of the kernel, stride and padding; pooling follows the first two layers.
        layers = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
        for i, (width, side, stride, padding) in enumerate(layers, start=1):
            if i in (2, 3):
                x = nn.max_pool(x, (3, 3), (2, 2))
            conv = nn.Conv(
                width, (side, side), stride, padding=padding, dtype=self.dtype, name=f"conv{i}"
            )
            x = nn.relu(conv(x))
            activations[f"relu{i}"] = x.astype(jnp.float32)
        return activations


_VGG_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
_ALEX_LAYERS = ("relu1", "relu2", "relu3", "relu4", "relu5")


class LPIPS(lpips_j.lpips.LPIPS):
    """Perceptual distance of two image batches [b, h, w, 3] in [-1, 1] -> [b].

    The network of `lpips` 0.1. Unlike lpips-j's own class it downloads nothing; its weights come
    from `from_torch('lpips', ...)`.

    Attributes:
        net: 'vgg' (VGG16, usual as a loss) or 'alex' (AlexNet, usual as a metric).
        normalize_twice: normalises the images to ImageNet statistics before the network does so
            again, as the published CodeFormer training does.
        dtype: of the convolutions; features are compared in float32.

    Raises:
        ValueError: at construction, for another `net`.
    """

    normalize_twice: bool = False
    dtype: DTypeLike = jnp.float32
    net: str = "vgg"

    # net -> (name of the parameters, module, names of the activations that are compared)
    trunks: ClassVar[Mapping[str, tuple[str, type[nn.Module], tuple[str, ...]]]] = {
        "vgg": ("vgg", _Features, _VGG_LAYERS),
        "alex": ("alex", _AlexNet, _ALEX_LAYERS),
    }

    def __post_init__(self):
        if self.net not in self.trunks:
            raise ValueError(f"net is {self.net!r}; expected one of {', '.join(self.trunks)}")
        super().__post_init__()

    def setup(self):
        name, network, layers = self.trunks[self.net]
        self.feature_names = list(layers)
        setattr(self, name, network(dtype=self.dtype))
        self.vgg = getattr(self, name)  # lpips-j's name; that of the parameters is `name`.
        self.lins = [_LinearHead() for _ in self.feature_names]

    def __call__(self, images: AnyArray, targets: AnyArray) -> Float[Array, "b"]:
        """Returns the distances [b] of images and targets.

        Args:
            images, targets: float32 [b, h, w, 3] in [-1, 1].

        Raises:
            ValueError, TypeError: for images of another form; the message says what to pass.
        """
        images = as_images(images, dtype=self.dtype)
        targets = as_images(targets, "targets", dtype=self.dtype)
        if self.normalize_twice:
            images, targets = _to_imagenet(images), _to_imagenet(targets)
        # lpips-j and flaxmodels were not written for strict promotion.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return super().__call__(images, targets).reshape(-1).astype(jnp.float32)


class STLPIPS(LPIPS):
    """Perceptual distance that tolerates small shifts: [b, h, w, 3] in [-1, 1], twice -> [b].

    The network of `stlpips-pytorch` 0.0.2 with variant='shift_tolerant'. Its values are ST-LPIPS,
    which cannot be compared with LPIPS. Weights come from `from_torch('st_lpips', ...)`.

    Attributes:
        net: 'alex' (AlexNet) or 'vgg' (VGG16).
        normalize_twice, dtype: see `LPIPS`.

    Raises:
        ValueError: at construction, for another `net`.
    """

    net: str = "alex"

    trunks: ClassVar[Mapping[str, tuple[str, type[nn.Module], tuple[str, ...]]]] = {
        "alex": ("st_alex", ShiftTolerantAlexNet, _ALEX_LAYERS),
        "vgg": ("st_vgg", ShiftTolerantVGG, _VGG_LAYERS),
    }

    def setup(self):
        super().setup()
        trunk = self.vgg
        self.vgg = lambda images: trunk(_to_imagenet(2 * images - 1))

    def min_size(self) -> int:
        """Returns the smallest side in pixels."""
        return self.trunks[self.net][1].min_size

    def __call__(self, images: AnyArray, targets: AnyArray) -> Float[Array, "b"]:
        """Returns the distances [b] of images and targets.

        Args:
            images, targets: float32 [b, h, w, 3] in [-1, 1], with sides of `min_size()` or more.

        Raises:
            ValueError, TypeError: for images of another form; the message says what to pass.
        """
        images = as_images(images, dtype=self.dtype)
        if min(images.shape[1:3]) < self.min_size():
            raise ValueError(
                f"images are {images.shape[1]}x{images.shape[2]} px; expected sides of at least "
                f"{self.min_size()} px"
            )
        return super().__call__(images, targets)


def fit_lpips(module: LPIPS, variables: Mapping[str, Any]) -> LPIPS:
    """Returns the network of these variables, with the settings of `module`.

    Args:
        module: any LPIPS or STLPIPS.
        variables: variables of either, with any `net`.

    Returns:
        An LPIPS or STLPIPS with the `net` of the variables.

    Raises:
        ValueError: for variables of neither.
    """
    for kind in (LPIPS, STLPIPS):
        for net, (name, *_) in kind.trunks.items():
            if name in variables["params"]:
                return kind(module.normalize_twice, module.dtype, net)
    raise ValueError(
        f"LPIPS variables hold {sorted(variables['params'])}; expected "
        f"{', '.join([*LPIPS.trunks, *(name for name, *_ in STLPIPS.trunks.values())])}: convert "
        "the weights again"
    )


def _to_imagenet(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    mean = jnp.array(IMAGENET_MEAN, images.dtype)[None, None, None, :]
    std = jnp.array(IMAGENET_STD, images.dtype)[None, None, None, :]
    return ((images + 1) / 2 - mean) / std
