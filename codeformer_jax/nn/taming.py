"""VQGAN in the layout of "Taming Transformers" (arXiv 2012.09841, appendix A).

Blocks are grouped in levels, `encoder/down_{i}` and `decoder/up_{i}`, where level 0 has the image's
own size. 1x1 convolutions precede and follow the codebook.
"""

from collections.abc import Sequence

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from codeformer_jax.nn.layers import (
    AttentionBlock,
    Conv,
    Downsample,
    GroupNorm,
    ResBlock,
    Upsample,
    sum_dtype,
    swish,
)
from codeformer_jax.nn.quantizer import QUANTIZERS
from codeformer_jax.nn.remat import rematted
from codeformer_jax.nn.vqgan import VQGAN


class Level(nn.Module):
    """Residual blocks of one width, each followed by attention if `attention` is set.

    `resample`, None, 'down' or 'up', comes last.
    """

    width: int
    res_blocks: int
    attention: bool
    resample: str | None
    norm_groups: int
    dtype: DTypeLike
    remat: str | None = None

    def setup(self):
        res_block, attention = rematted(ResBlock, self.remat), rematted(AttentionBlock, self.remat)
        self.block = [
            res_block(self.width, self.norm_groups, self.dtype) for _ in range(self.res_blocks)
        ]
        if self.attention:
            self.attn = [attention(self.norm_groups, self.dtype) for _ in range(self.res_blocks)]
        if self.resample == "down":
            self.downsample = Downsample(self.dtype)
        elif self.resample == "up":
            self.upsample = Upsample(self.dtype)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        for i in range(self.res_blocks):
            x = self.block[i](x)
            if self.attention:
                x = self.attn[i](x)
        if self.resample == "down":
            return self.downsample(x)
        return self.upsample(x) if self.resample == "up" else x


class Middle(nn.Module):
    """Residual block, attention, residual block at the smallest size."""

    width: int
    norm_groups: int
    dtype: DTypeLike
    remat: str | None = None

    def setup(self):
        res_block, attention = rematted(ResBlock, self.remat), rematted(AttentionBlock, self.remat)
        self.block_1 = res_block(self.width, self.norm_groups, self.dtype)
        self.attn_1 = attention(self.norm_groups, self.dtype)
        self.block_2 = res_block(self.width, self.norm_groups, self.dtype)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.block_2(self.attn_1(self.block_1(x)))


class Backbone(nn.Module):
    """Common parts of encoder and decoder: widths, attention per level, head."""

    image_size: int
    nf: int
    ch_mult: Sequence[int]
    res_blocks: int
    attn_resolutions: Sequence[int]
    norm_groups: int
    features: int
    dtype: DTypeLike
    remat: str | None = None

    def _level(self, index: int, res_blocks: int, resample: str | None) -> Level:
        return Level(
            width=self.nf * self.ch_mult[index],
            res_blocks=res_blocks,
            attention=self.image_size // 2**index in self.attn_resolutions,
            resample=resample,
            norm_groups=self.norm_groups,
            dtype=self.dtype,
            remat=self.remat,
        )

    def _setup_ends(self, first_width: int):
        width = self.nf * self.ch_mult[-1]
        self.conv_in = Conv(first_width, dtype=self.dtype)
        self.mid = Middle(width, self.norm_groups, self.dtype, self.remat)
        self.norm_out = GroupNorm(self.norm_groups, dtype=self.dtype)
        self.conv_out = Conv(self.features, dtype=self.dtype)

    def _head(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        return self.conv_out(swish(self.norm_out(x)))


class Encoder(Backbone):
    """images [b, h, w, 3] -> [b, h / f, w / f, features]."""

    def setup(self):
        self._setup_ends(self.nf)
        last = len(self.ch_mult) - 1
        self.down = [
            self._level(i, self.res_blocks, "down" if i < last else None) for i in range(last + 1)
        ]

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 d"]:
        x = self.conv_in(images)
        for level in self.down:
            x = level(x)
        return self._head(self.mid(x))


class Decoder(Backbone):
    """latents [b, h / f, w / f, z] -> images [b, h, w, features]; one more block per level."""

    def setup(self):
        self._setup_ends(self.nf * self.ch_mult[-1])
        self.up = [
            self._level(i, self.res_blocks + 1, "up" if i else None)
            for i in range(len(self.ch_mult))
        ]

    def __call__(self, latents: Float[Array, "b h w d"]) -> Float[Array, "b h2 w2 3"]:
        x = self.mid(self.conv_in(latents))
        for level in reversed(self.up):
            x = level(x)
        return self._head(x)


class TamingVQGAN(VQGAN):
    """The autoencoder of "Taming Transformers"; images [b, h, w, 3] in [-1, 1].

    Arguments and outputs are those of `VQGAN`; `latents` are the quantizer's input, after
    `quant_conv`. The defaults are the published f16-1024, whose training put `beta` on the codebook
    term (`beta_on='codebook'`) instead of the paper's commitment term.

    Attributes:
        z_channels: width of encoder output and decoder input; `emb_dim` is the length of a code.
        Others: see `VQGAN`. Gumbel f8: ch_mult (1, 1, 2, 4), attn_resolutions (32,), 8192 codes.
    """

    image_size: int = 256
    nf: int = 128
    ch_mult: Sequence[int] = (1, 1, 2, 2, 4)
    z_channels: int = 256

    def _check(self):
        super()._check()
        if self.z_channels < 1:
            raise ValueError(f"z_channels must be positive; got {self.z_channels}")

    def setup(self):
        backbone = self._backbone()
        self.encoder = Encoder(features=self.z_channels, **backbone)
        self.decoder = Decoder(features=3, **backbone)
        self.quant_conv = Conv(self.emb_dim, kernel_size=1, dtype=self.dtype)
        self.post_quant_conv = Conv(self.z_channels, kernel_size=1, dtype=self.dtype)
        self.quantize = QUANTIZERS[self.quantizer].from_model(self)

    def _latents(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 d"]:
        return self.quant_conv(self.encoder(images)).astype(sum_dtype(self.dtype))

    def _generate(self, quantized: Float[Array, "b h w d"]) -> Float[Array, "b h2 w2 3"]:
        return self.decoder(self.post_quant_conv(quantized)).astype(sum_dtype(self.dtype))
