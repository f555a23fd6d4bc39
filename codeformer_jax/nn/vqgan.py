"""VQGAN as CodeFormer trains it (arXiv 2206.11253, section 3.1; 2012.09841).

Encoder and generator keep all blocks in one flat list `blocks_{i}`, as PyTorch's names do.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int

from codeformer_jax.nn.gumbel import check_gumbel
from codeformer_jax.nn.layers import (
    AttentionBlock,
    Conv,
    Downsample,
    GroupNorm,
    ResBlock,
    Upsample,
    sum_dtype,
)
from codeformer_jax.nn.quantizer import QUANTIZERS, Quantized
from codeformer_jax.nn.remat import check_policy, rematted
from codeformer_jax.ops import checks
from codeformer_jax.ops.checks import AnyArray


@flax.struct.dataclass
class VQGANOutput:
    """Reconstruction of images [b, h, w, 3] with intermediate values.

    Attributes:
        image: reconstruction [b, h, w, 3], trained to [-1, 1] but not clipped.
        latents: encoder output before quantization [b, h / f, w / f, d].
        indices: codes, row-major, [b, (h / f) * (w / f)].
        codebook_loss: scalar loss of the quantizer.
        perplexity: scalar, see `code_perplexity`.
        quantized: output of the quantizer.
    """

    image: Float[Array, "b h w 3"]
    latents: Float[Array, "b h2 w2 d"]
    indices: Int[Array, "b n"]
    codebook_loss: Float[Array, ""]
    perplexity: Float[Array, ""]
    quantized: Quantized


class Encoder(nn.Module):
    """images [b, h, w, 3] -> (latents [b, h / f, w / f, emb_dim], {side: features of that level}).

    `side` is the side of the level for an image of `image_size`. Its features are taken after the
    level's last residual block, before its attention.
    """

    image_size: int
    nf: int
    ch_mult: Sequence[int]
    res_blocks: int
    attn_resolutions: Sequence[int]
    emb_dim: int
    norm_groups: int
    dtype: DTypeLike
    remat: str | None = None

    def setup(self):
        groups, dtype = self.norm_groups, self.dtype
        res_block, attention_block = _blocks(self.remat)
        blocks, taps, side = [Conv(self.nf, dtype=dtype)], {}, self.image_size
        for level, mult in enumerate(self.ch_mult):
            width = self.nf * mult
            for _ in range(self.res_blocks):
                blocks.append(res_block(width, groups, dtype))
                taps[side] = len(blocks) - 1
                if side in self.attn_resolutions:
                    blocks.append(attention_block(groups, dtype))
            if level < len(self.ch_mult) - 1:
                blocks.append(Downsample(dtype))
                side //= 2
        blocks += [
            res_block(width, groups, dtype),
            attention_block(groups, dtype),
            res_block(width, groups, dtype),
            GroupNorm(groups, dtype=dtype),
            Conv(self.emb_dim, dtype=dtype),
        ]
        self.blocks = blocks
        self.taps = {index: side for side, index in taps.items()}

    def __call__(
        self, images: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b h2 w2 d"], dict[int, Float[Array, "..."]]]:
        x, features = images, {}
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                features[self.taps[index]] = x
        return x.astype(sum_dtype(self.dtype)), features


class Generator(nn.Module):
    """quantized latents [b, h / f, w / f, emb_dim] -> images [b, h, w, 3].

    `up_to` and `beyond` are its two parts, cut after the last features that a caller changes.
    """

    image_size: int
    nf: int
    ch_mult: Sequence[int]
    res_blocks: int
    attn_resolutions: Sequence[int]
    norm_groups: int
    dtype: DTypeLike
    remat: str | None = None

    def setup(self):
        groups, dtype = self.norm_groups, self.dtype
        res_block, attention_block = _blocks(self.remat)
        width = self.nf * self.ch_mult[-1]
        side = self.image_size // 2 ** (len(self.ch_mult) - 1)
        blocks = [
            Conv(width, dtype=dtype),
            res_block(width, groups, dtype),
            attention_block(groups, dtype),
            res_block(width, groups, dtype),
        ]
        taps = {}
        for level in reversed(range(len(self.ch_mult))):
            taps[len(blocks)] = side
            for _ in range(self.res_blocks):
                blocks.append(res_block(self.nf * self.ch_mult[level], groups, dtype))
                if side in self.attn_resolutions:
                    blocks.append(attention_block(groups, dtype))
            if level > 0:
                blocks.append(Upsample(dtype))
                side *= 2
        blocks += [GroupNorm(groups, dtype=dtype), Conv(3, dtype=dtype)]
        self.blocks = blocks
        self.taps = taps

    def __call__(self, latents: Float[Array, "b h w d"]) -> Float[Array, "b h2 w2 3"]:
        return self._images(latents, self.blocks)

    def up_to(
        self,
        side: int,
        latents: Float[Array, "b h w d"],
        fuse: Callable[[int, Float[Array, "b h3 w3 c"]], Float[Array, "b h3 w3 c"]],
    ) -> Float[Array, "b h2 w2 c"]:
        """Returns the features after the first residual block of the level of `side`.

        Args:
            side: side of a level for an image of `image_size`.
            latents: quantized latents [b, h, w, d].
            fuse: function (side, features) -> features, applied at this and every earlier level.
        """
        x = latents
        for index, block in enumerate(self.blocks[: self._tap(side)]):
            x = block(x)
            if index in self.taps:
                x = fuse(self.taps[index], x)
        return x

    def beyond(self, side: int, features: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 3"]:
        """Returns images from the features of `up_to`.

        Args:
            side: the argument of `up_to`.
            features: the result of `up_to`.
        """
        return self._images(features, self.blocks[self._tap(side) :])

    def _tap(self, side):
        """Returns the number of blocks up to the features of a side."""
        return 1 + next(index for index, tapped in self.taps.items() if tapped == side)

    def _images(self, x, blocks):
        for block in blocks:
            x = block(x)
        return x.astype(sum_dtype(self.dtype))


class VQGAN(nn.Module):
    """Encoder, quantizer and generator; images [b, h, w, 3] in [-1, 1].

    A codebook that is a moving average is updated if the collection 'codebook' is mutable. Gumbel
    noise needs `noise_keys`, one per image, or an rng 'gumbel'; otherwise the network is
    deterministic. Images may have any sides that the downsampling factor divides.

    Attributes:
        image_size: side of the training images in pixels, to which `attn_resolutions` refers.
        nf: width of the first level.
        ch_mult: width of each level in units of `nf`; n levels halve the image n - 1 times.
        res_blocks: residual blocks per level.
        attn_resolutions: sides of the feature maps that get attention after each residual block.
        codebook_size: number of codes K.
        emb_dim: length of a code d.
        norm_groups: groups of every GroupNorm.
        quantizer: 'nearest', 'gumbel' or another name in `quantizer.QUANTIZERS`.
        beta, beta_on, ema_decay, restart_below, codebook_init: see `VectorQuantizer`.
        straight_through, kl_weight, temperature: see `GumbelQuantizer`.
        temperature_final: Gumbel temperature at the end of `temperature_steps`.
        temperature_steps: training steps over which the temperature falls; 0 keeps it.
        dtype: dtype of the computation; parameters, codebook distances and norms are float32.
        remat: activations that the backward pass recomputes, see `remat.rematted`.

    Raises:
        ValueError: at construction, for sizes that do not divide.
    """

    image_size: int = 512
    nf: int = 64
    ch_mult: Sequence[int] = (1, 2, 2, 4, 4, 8)
    res_blocks: int = 2
    attn_resolutions: Sequence[int] = (16,)
    codebook_size: int = 1024
    emb_dim: int = 256
    norm_groups: int = 32
    quantizer: str = "nearest"
    beta: float = 0.25
    beta_on: str = "commitment"
    ema_decay: float | None = None
    restart_below: float = 0.0
    codebook_init: str = "uniform"
    straight_through: bool = True
    kl_weight: float = 5e-4
    temperature: float = 1.0
    temperature_final: float = 1.0
    temperature_steps: int = 0
    dtype: DTypeLike = jnp.float32
    remat: str | None = None

    def __post_init__(self):
        # Sequences become tuples: modules are hashed, and lists come from JSON.
        object.__setattr__(self, "ch_mult", tuple(self.ch_mult))
        object.__setattr__(self, "attn_resolutions", tuple(self.attn_resolutions))
        self._check()
        super().__post_init__()

    @property
    def downsampling(self) -> int:
        """Pixels per code along each side, f."""
        return 2 ** (len(self.ch_mult) - 1)

    @property
    def draws_noise(self) -> bool:
        """Whether the quantizer takes `noise_keys` and a `temperature`."""
        return QUANTIZERS[self.quantizer].draws_noise

    @property
    def level_sides(self) -> tuple[int, ...]:
        """Sides of the feature maps of an image of `image_size`, largest first."""
        return tuple(self.image_size // 2**i for i in range(len(self.ch_mult)))

    def _check(self):
        if not self.ch_mult or min(self.ch_mult) < 1:
            raise ValueError(f"ch_mult must hold positive integers; got {self.ch_mult}")
        for name in ("image_size", "nf", "res_blocks", "codebook_size", "emb_dim", "norm_groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        if self.image_size % self.downsampling:
            raise ValueError(
                f"image_size={self.image_size} is not divisible by {self.downsampling}, the "
                f"downsampling of {len(self.ch_mult)} levels; change image_size or ch_mult"
            )
        for width in sorted({self.nf * m for m in self.ch_mult}):
            if width % self.norm_groups:
                raise ValueError(
                    f"a level of width {width} does not divide into norm_groups="
                    f"{self.norm_groups}; change nf={self.nf}, ch_mult or norm_groups"
                )
        check_sides("attn_resolutions", self.attn_resolutions, self.level_sides)
        check_policy(self.remat)
        check_gumbel(self)
        QUANTIZERS[self.quantizer]

    def temperature_at(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Returns the Gumbel temperature of a training step: a cosine down to the final one."""
        if not self.temperature_steps:
            return jnp.float32(self.temperature)
        passed = jnp.minimum(step.astype(jnp.float32) / self.temperature_steps, 1.0)
        share = (1 + jnp.cos(jnp.pi * passed)) / 2
        return self.temperature_final + (self.temperature - self.temperature_final) * share

    def setup(self):
        self.encoder = Encoder(emb_dim=self.emb_dim, **self._backbone())
        self.generator = Generator(**self._backbone())
        self.quantize = QUANTIZERS[self.quantizer].from_model(self)

    def _backbone(self) -> dict[str, Any]:
        """Returns the fields that encoder and generator share."""
        return {
            "image_size": self.image_size,
            "nf": self.nf,
            "ch_mult": self.ch_mult,
            "res_blocks": self.res_blocks,
            "attn_resolutions": self.attn_resolutions,
            "norm_groups": self.norm_groups,
            "dtype": self.dtype,
            "remat": self.remat,
        }

    def _latents(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 d"]:
        """Returns the quantizer's input."""
        return self.encoder(images)[0]

    def _generate(self, quantized: Float[Array, "b h w d"]) -> Float[Array, "b h2 w2 3"]:
        """Returns images from quantized latents."""
        return self.generator(quantized)

    def __call__(
        self,
        images: AnyArray,
        *,
        noise_keys: AnyArray | None = None,
        temperature: ArrayLike | None = None,
    ) -> VQGANOutput:
        """Reconstructs images.

        Args:
            images: float32 [b, h, w, 3] in [-1, 1].
            noise_keys: one typed key per image, [b], for Gumbel noise.
            temperature: temperature of the Gumbel softmax; None uses the field.

        Raises:
            ValueError, TypeError: for images of another form; the message says what to pass.
        """
        images = as_input(images, self.downsampling, self.dtype)
        latents = self._latents(images)
        if self.draws_noise:
            quantized = self.quantize(latents, noise_keys, temperature)
        else:
            quantized = self.quantize(latents)
        return VQGANOutput(
            image=self._generate(quantized.latents),
            latents=latents,
            indices=quantized.indices,
            codebook_loss=quantized.loss,
            perplexity=quantized.perplexity,
            quantized=quantized,
        )

    def encode(self, images: AnyArray) -> Quantized:
        """Returns codes and quantized latents of images, `method='encode'`; see `__call__`."""
        images = as_input(images, self.downsampling, self.dtype)
        return self.quantize(self._latents(images))

    def update_codebook(self, latents: Float[Array, "b h w d"], indices: Int[Array, "b n"]):
        """Updates a codebook's moving average by a batch that was encoded before.

        `method='update_codebook'`, with the collection 'codebook' mutable. Slices of a batch that
        were encoded separately count as one update.

        Args:
            latents: encoder outputs [b, h, w, d].
            indices: their codes [b, h * w].
        """
        self.quantize.update(latents, indices)

    def decode(self, indices: AnyArray) -> Float[Array, "b h2 w2 3"]:
        """Returns images from maps of codes, integers [b, h, w]; `method='decode'`."""
        indices = checks.as_integers(indices, "indices", ("batch", "height", "width"))
        return self._generate(self.quantize.lookup(indices))


def as_input(images: AnyArray, downsampling: int, dtype: DTypeLike) -> Float[Array, "b h w 3"]:
    """Returns images as a JAX array that a network accepts; see `checks.as_images`.

    Args:
        images: floating point [b, h, w, 3] in [-1, 1].
        downsampling: factor that must divide both sides.
        dtype: dtype of the computation.

    Raises:
        ValueError, TypeError: for images of another form or size.
    """
    images = checks.as_images(images, dtype=dtype)
    if images.shape[1] % downsampling or images.shape[2] % downsampling:
        raise ValueError(
            f"images of {images.shape[1]}x{images.shape[2]} px cannot be halved "
            f"{downsampling.bit_length() - 1} times; sides must be multiples of {downsampling}"
        )
    return images


def _blocks(remat: str | None) -> tuple[type[nn.Module], type[nn.Module]]:
    return rematted(ResBlock, remat), rematted(AttentionBlock, remat)


def check_sides(name: str, given: Sequence[int], sides: Sequence[int]):
    """Raises ValueError for sides in setting `name` that no feature map has."""
    unknown = [side for side in given if side not in sides]
    if unknown:
        raise ValueError(
            f"{name} has {unknown}, but this network's feature maps have sides {sides}"
        )
