"""VQ-VAE: convolutional encoder, codebook and decoder (arXiv 1711.00937, section 4.1).

Parameter tree: encoder/*, quantize/*, decoder/*.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from codeformer_jax.nn.layers import Conv, Padding, fan_in_uniform, sum_dtype
from codeformer_jax.nn.quantizer import Quantized, VectorQuantizer
from codeformer_jax.nn.vqgan import VQGANOutput, as_input
from codeformer_jax.ops import checks
from codeformer_jax.ops.checks import AnyArray

DOWNSAMPLING = 4  # Two convolutions of stride 2.
_HALVING: Padding = ((1, 1), (1, 1))


class TransposedConv(nn.Module):
    """Transposed 4x4 convolution of stride 2, [b, h, w, c] -> [b, 2h, 2w, features].

    The adjoint of the 4x4 convolution of stride 2 with one pixel of padding.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        # 2x2 of the 4x4 taps meet at each output pixel.
        init = fan_in_uniform(4 * x.shape[-1])
        kernel = self.param("kernel", init, (4, 4, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", init, (self.features,), jnp.float32)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (1, 1),
            ((2, 2), (2, 2)),
            lhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + bias.astype(self.dtype)[None, None, None, :]


class PlainResBlock(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x)))), without normalisation."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = Conv(self.features, dtype=self.dtype, name="conv1")(nn.relu(x))
        y = Conv(x.shape[-1], kernel_size=1, dtype=self.dtype, name="conv2")(nn.relu(y))
        return x + y


class VQVAEEncoder(nn.Module):
    """images [b, h, w, 3] -> latents [b, h / 4, w / 4, emb_dim], float32."""

    hidden: int
    res_blocks: int
    emb_dim: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 d"]:
        halve = {"kernel_size": 4, "stride": 2, "padding": _HALVING, "dtype": self.dtype}
        x = nn.relu(Conv(self.hidden, **halve, name="down1")(images))
        x = Conv(self.hidden, **halve, name="down2")(x)
        for index in range(self.res_blocks):
            x = PlainResBlock(self.hidden, self.dtype, name=f"res{index + 1}")(x)
        x = Conv(self.emb_dim, kernel_size=1, dtype=self.dtype, name="head")(nn.relu(x))
        return x.astype(sum_dtype(self.dtype))


class VQVAEDecoder(nn.Module):
    """quantized latents [b, h / 4, w / 4, emb_dim] -> images [b, h, w, 3], float32."""

    hidden: int
    res_blocks: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, latents: Float[Array, "b h w d"]) -> Float[Array, "b h2 w2 3"]:
        x = Conv(self.hidden, dtype=self.dtype, name="stem")(latents)
        for index in range(self.res_blocks):
            x = PlainResBlock(self.hidden, self.dtype, name=f"res{index + 1}")(x)
        x = nn.relu(TransposedConv(self.hidden, self.dtype, name="up1")(nn.relu(x)))
        return TransposedConv(3, self.dtype, name="up2")(x).astype(sum_dtype(self.dtype))


class VQVAE(nn.Module):
    """Encoder, codebook and decoder; images [b, h, w, 3] in [-1, 1] of any sides that 4 divides.

    A codebook that is a moving average is updated if the collection 'codebook' is mutable.

    Attributes:
        image_size: side of the training images in pixels.
        hidden: width of every hidden layer.
        res_blocks: residual blocks on either side.
        codebook_size: number of codes K.
        emb_dim: length of a code d.
        beta, beta_on, ema_decay, restart_below, codebook_init: see `VectorQuantizer`.
        dtype: dtype of the computation; parameters and codebook distances are float32.

    Raises:
        ValueError: at construction, for sizes that are not positive or do not divide.
    """

    image_size: int = 32
    hidden: int = 256
    res_blocks: int = 2
    codebook_size: int = 512
    emb_dim: int = 64
    beta: float = 0.25
    beta_on: str = "commitment"
    ema_decay: float | None = None
    restart_below: float = 0.0
    codebook_init: str = "uniform"
    dtype: DTypeLike = jnp.float32

    quantizer = "nearest"
    downsampling = DOWNSAMPLING

    def __post_init__(self):
        for name in ("image_size", "hidden", "codebook_size", "emb_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        if self.res_blocks < 0:
            raise ValueError(f"res_blocks must not be negative; got {self.res_blocks}")
        if self.image_size % DOWNSAMPLING:
            raise ValueError(
                f"image_size={self.image_size} is not divisible by {DOWNSAMPLING}, the "
                "downsampling of two strided convolutions; change image_size"
            )
        super().__post_init__()

    def setup(self):
        self.encoder = VQVAEEncoder(self.hidden, self.res_blocks, self.emb_dim, self.dtype)
        self.quantize = VectorQuantizer(
            self.codebook_size,
            self.emb_dim,
            self.beta,
            self.beta_on,
            self.ema_decay,
            restart_below=self.restart_below,
            codebook_init=self.codebook_init,
        )
        self.decoder = VQVAEDecoder(self.hidden, self.res_blocks, self.dtype)

    def __call__(self, images: AnyArray) -> VQGANOutput:
        """Reconstructs images, float32 [b, h, w, 3] in [-1, 1].

        Raises:
            ValueError, TypeError: for images of another form; the message says what to pass.
        """
        images = as_input(images, DOWNSAMPLING, self.dtype)
        latents = self.encoder(images)
        quantized = self.quantize(latents)
        return VQGANOutput(
            image=self.decoder(quantized.latents),
            latents=latents,
            indices=quantized.indices,
            codebook_loss=quantized.loss,
            perplexity=quantized.perplexity,
            quantized=quantized,
        )

    def encode(self, images: AnyArray) -> Quantized:
        """Returns codes and quantized latents of images, `method='encode'`; see `__call__`."""
        images = as_input(images, DOWNSAMPLING, self.dtype)
        return self.quantize(self.encoder(images))

    def update_codebook(self, latents: Float[Array, "b h w d"], indices: Int[Array, "b n"]):
        """Updates a codebook's moving average; `method='update_codebook'`, see `VQGAN`.

        Args:
            latents: encoder outputs [b, h, w, d].
            indices: their codes [b, h * w].
        """
        self.quantize.update(latents, indices)

    def decode(self, indices: AnyArray) -> Float[Array, "b h2 w2 3"]:
        """Returns images from maps of codes, integers [b, h, w]; `method='decode'`."""
        indices = checks.as_integers(indices, "indices", ("batch", "height", "width"))
        return self.decoder(self.quantize.lookup(indices))
