"""Patch discriminator (pix2pix; VQGAN, arXiv 2012.09841, section 3.2)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from codeformer_jax.nn.layers import sum_dtype
from codeformer_jax.ops.checks import AnyArray, as_images


class PatchDiscriminator(nn.Module):
    """Scores overlapping patches: images [b, h, w, 3] in [-1, 1] -> logits [b, h', w', 1].

    4x4 convolutions: `n_layers` of stride 2, one of stride 1, one to a single channel; LeakyReLU
    0.2, BatchNorm after all but the first and the last, weights from N(0, 0.02). The collection
    'batch_stats' holds the statistics (Flax keeps the biased variance, PyTorch the unbiased one).

    Attributes:
        ndf: width of the first layer; each layer doubles it, up to eight times.
        n_layers: number of strided layers.
        dtype: dtype of the computation; logits are float32.
    """

    ndf: int = 64
    n_layers: int = 4
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        if self.ndf < 1 or self.n_layers < 1:
            raise ValueError(
                f"ndf and n_layers must be positive; got ndf={self.ndf}, n_layers={self.n_layers}"
            )
        super().__post_init__()

    def min_size(self) -> int:
        """Returns the smallest image side in pixels that gives at least one logit."""
        side = 1
        for stride in [1, 1] + [2] * self.n_layers:
            side = (side - 1) * stride + 4 - 2
        return side

    @nn.compact
    def __call__(self, images: AnyArray, *, train: bool) -> Float[Array, "b h2 w2 1"]:
        """Returns the logits of overlapping patches.

        Args:
            images: float32 [b, h, w, c] in [-1, 1].
            train: normalises by the batch and updates 'batch_stats' if that is mutable.

        Raises:
            ValueError, TypeError: for images of another form; the message says what to pass.
        """
        images = as_images(images, channels=None, dtype=self.dtype)
        if min(images.shape[1:3]) < self.min_size():
            raise ValueError(
                f"images of {images.shape[1]}x{images.shape[2]} px are too small for "
                f"{self.n_layers} strided layers: at least {self.min_size()} px, or fewer layers"
            )
        widths = [self.ndf * min(2**i, 8) for i in range(self.n_layers + 1)]
        x = images
        # Names count convolution, norm and activation, as PyTorch's Sequential does.
        for i, width in enumerate(widths):
            index = 0 if i == 0 else 3 * i - 1
            stride = 2 if i < self.n_layers else 1
            x = self._conv(width, stride, index, use_bias=i == 0)(x)
            if i > 0:
                norm = nn.BatchNorm(
                    use_running_average=not train,
                    momentum=0.9,
                    epsilon=1e-5,
                    use_fast_variance=False,
                    scale_init=lambda key, shape, dtype: (
                        1.0 + nn.initializers.normal(0.02)(key, shape, dtype)
                    ),
                    dtype=self.dtype,
                    name=f"main_{index + 1}",
                )
                # Flax subtracts float32 statistics from the input, whatever its dtype.
                with jax.numpy_dtype_promotion("standard"):
                    x = norm(x)
            x = nn.leaky_relu(x, 0.2)
        return self._conv(1, 1, 3 * self.n_layers + 2, use_bias=True)(x).astype(
            sum_dtype(self.dtype)
        )

    def _conv(self, features: int, stride: int, index: int, *, use_bias: bool) -> nn.Conv:
        return nn.Conv(
            features,
            (4, 4),
            strides=stride,
            padding=1,
            use_bias=use_bias,
            kernel_init=nn.initializers.normal(0.02),
            dtype=self.dtype,
            name=f"main_{index}",
        )
