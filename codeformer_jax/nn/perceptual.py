"""LPIPS (arXiv 1801.03924): lpips-j's network with its weights as ordinary variables."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import lpips_j.lpips
from flaxmodels.vgg.vgg import VGG
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from codeformer_jax.ops.checks import AnyArray, as_images

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class _LinearHead(nn.Module):
    """1x1 convolution to one channel; the submodule's name is the converted weights'."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w 1"]:
        return nn.Conv(1, (1, 1), use_bias=False, name="layer")(x)


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


_FEATURES = {
    "vgg": (_Features, ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")),
    "alex": (_AlexNet, ("relu1", "relu2", "relu3", "relu4", "relu5")),
}


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

    def __post_init__(self):
        if self.net not in _FEATURES:
            raise ValueError(f"net is {self.net!r}; expected one of {', '.join(_FEATURES)}")
        super().__post_init__()

    def setup(self):
        network, names = _FEATURES[self.net]
        self.feature_names = list(names)
        setattr(self, self.net, network(dtype=self.dtype))
        self.vgg = getattr(self, self.net)  # lpips-j's name; that of the parameters is `net`.
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


def fit_lpips(module: LPIPS, variables: Mapping[str, Any]) -> LPIPS:
    """Returns `module` with the `net` of these variables.

    Args:
        module: any LPIPS.
        variables: variables of 'vgg' or 'alex'.

    Raises:
        ValueError: for variables of neither network.
    """
    net = next((name for name in _FEATURES if name in variables["params"]), None)
    if net is None:
        raise ValueError(
            f"LPIPS variables hold {sorted(variables['params'])}; expected one of "
            f"{', '.join(_FEATURES)}: convert the weights again"
        )
    return module.clone(net=net)


def _to_imagenet(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    mean = jnp.array(IMAGENET_MEAN, images.dtype)[None, None, None, :]
    std = jnp.array(IMAGENET_STD, images.dtype)[None, None, None, :]
    return ((images + 1) / 2 - mean) / std
