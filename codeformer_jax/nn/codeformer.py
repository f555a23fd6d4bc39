"""CodeFormer (arXiv 2206.11253): codes predicted by a transformer, features fused on demand."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int

from codeformer_jax.nn.layers import Conv, LayerNorm, ResBlock, attend, wide_dot_general
from codeformer_jax.nn.remat import rematted
from codeformer_jax.nn.vqgan import VQGAN, as_input, check_sides
from codeformer_jax.ops.checks import AnyArray

# PyTorch's default for Linear: U(+-1 / sqrt(fan_in)).
_LINEAR_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


@flax.struct.dataclass
class CodeFormerOutput:
    """Restoration of images [b, h, w, 3] and the codes behind it.

    Attributes:
        image: restored images [b, h, w, 3], trained to [-1, 1] but not clipped.
        logits: scores of the codes at every site, row-major, [b, n, K].
        indices: argmax of the logits [b, n].
        latents: encoder output of the degraded images [b, h / f, w / f, d].
    """

    image: Float[Array, "b h w 3"]
    logits: Float[Array, "b n k"]
    indices: Int[Array, "b n"]
    latents: Float[Array, "b h2 w2 d"]


@flax.struct.dataclass
class CodePrediction:
    """Network output for degraded images, up to the choice of codes.

    Attributes:
        logits: scores of the codes at every site, row-major, [b, n, K].
        latents: encoder output [b, h / f, w / f, d].
        features: {side: encoder features} of the sides where they are fused.
    """

    logits: Float[Array, "b n k"]
    latents: Float[Array, "b h2 w2 d"]
    features: Any

    @property
    def indices(self) -> Int[Array, "b n"]:
        """Most likely code at every site, [b, n]."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)


def adaptive_instance_norm(
    content: Float[Array, "b h w c"], style: Float[Array, "b h2 w2 c"]
) -> Float[Array, "b h w c"]:
    """Returns `content` with the per-channel mean and deviation of `style`.

    Args:
        content: [b, h, w, c].
        style: [b, h2, w2, c]; the deviation is unbiased, with 1e-5 added to the variance.
    """

    def statistics(x):
        variance = jnp.var(x, axis=(1, 2), ddof=1, keepdims=True)
        return jnp.mean(x, axis=(1, 2), keepdims=True), jnp.sqrt(variance + 1e-5)

    content_mean, content_std = statistics(content)
    style_mean, style_std = statistics(style)
    return (content - content_mean) / content_std * style_std + style_mean


def resize_positions(positions: Float[Array, "n d"], shape: tuple[int, int]) -> Float[Array, "m d"]:
    """Interpolates the embeddings of a square map to another shape (bicubic).

    Args:
        positions: [n, d], row-major, n a square number.
        shape: rows and columns of the new map.
    """
    side, width = math.isqrt(positions.shape[0]), positions.shape[1]
    grid = positions.reshape(side, side, width)
    return jax.image.resize(grid, (*shape, width), "bicubic").reshape(-1, width)


class SelfAttention(nn.Module):
    """Multi-head attention in which queries and keys, but not values, carry the positions."""

    n_head: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], positions: Float[Array, "1 n d"]
    ) -> Float[Array, "b n d"]:
        b, n, d = tokens.shape
        in_proj = nn.Dense(
            3 * d, kernel_init=nn.initializers.xavier_uniform(), dtype=self.dtype, name="in_proj"
        )
        # One kernel holds q, k, v; x + p differs from x, so it is applied to both and split.
        queries_keys = in_proj(tokens + positions)[..., : 2 * d]
        values = in_proj(tokens)[..., 2 * d :]
        q, k = jnp.split(queries_keys, 2, axis=-1)
        q, k, v = (x.reshape(b, n, self.n_head, d // self.n_head) for x in (q, k, values))
        y = attend(q, k, v).reshape(b, n, d)
        return nn.Dense(d, kernel_init=_LINEAR_INIT, dtype=self.dtype, name="out_proj")(y)


class TransformerLayer(nn.Module):
    """Pre-norm layer: self-attention, then an MLP with exact GELU."""

    n_head: int
    dim_mlp: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], positions: Float[Array, "1 n d"]
    ) -> Float[Array, "b n d"]:
        y = LayerNorm(dtype=self.dtype, name="norm1")(tokens)
        tokens = tokens + SelfAttention(self.n_head, self.dtype, name="self_attn")(y, positions)
        y = LayerNorm(dtype=self.dtype, name="norm2")(tokens)
        y = nn.Dense(self.dim_mlp, kernel_init=_LINEAR_INIT, dtype=self.dtype, name="linear1")(y)
        y = nn.gelu(y, approximate=False)
        return tokens + nn.Dense(
            tokens.shape[-1], kernel_init=_LINEAR_INIT, dtype=self.dtype, name="linear2"
        )(y)


class Fusion(nn.Module):
    """Controllable feature transformation (section 3.3, eq. 8-9): d + w (d * scale + shift).

    Attributes:
        zero_init: starts scale and shift at zero, so that training starts from the unfused network;
            the published code starts them at random.
    """

    norm_groups: int = 32
    zero_init: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        encoder_features: Float[Array, "b h w c"],
        features: Float[Array, "b h w c"],
        w: Float[Array, "#b 1 1 1"],
    ) -> Float[Array, "b h w c"]:
        width = features.shape[-1]
        both = jnp.concatenate([encoder_features, features], axis=-1)
        both = ResBlock(width, self.norm_groups, self.dtype, name="encode_enc")(both)

        def head(name):
            y = nn.leaky_relu(Conv(width, dtype=self.dtype, name=f"{name}_0")(both), 0.2)
            return Conv(width, zero_init=self.zero_init, dtype=self.dtype, name=f"{name}_2")(y)

        return features + w.astype(self.dtype) * (features * head("scale") + head("shift"))


class CodeFormer(VQGAN):
    """Blind face restoration: codes from a transformer over the degraded image's latents.

    The fidelity weight `w` goes from 0 (codes only: quality) to 1 (features of the input:
    fidelity). Token positions are interpolated if the images are not of `image_size`.

    Attributes:
        dim_embd: width of the transformer.
        n_head: heads of the transformer.
        n_layers: layers of the transformer; the MLP is twice as wide as the tokens.
        connect_list: sides of the feature maps (at `image_size`) where features are fused.
        fusion_zero_init: see `Fusion`.
        stop_gradients: treats codes and encoder features as constants, so that losses on the
            restored image train the fusion blocks alone, as in stage III. Otherwise they also
            reach the codebook and, through fused features and `adain`, the encoder and the images.
            The choice of codes never has a gradient; train it through `logits`.
        keep_gray: whether the `restore` command keeps black-and-white pictures gray. No layer reads
            it; an option of the command overrides it.
        keep_known: whether the `restore` command replaces only white-painted pixels and copies the
            others from the input. No layer reads it.
        Others: see `VQGAN`; the quantizer must be 'nearest'.
    """

    dim_embd: int = 512
    n_head: int = 8
    n_layers: int = 9
    connect_list: Sequence[int] = (32, 64, 128, 256)
    fusion_zero_init: bool = True
    stop_gradients: bool = False
    keep_gray: bool = True
    keep_known: bool = False

    def __post_init__(self):
        object.__setattr__(self, "connect_list", tuple(self.connect_list))
        super().__post_init__()

    def _check(self):
        super()._check()
        for name in ("dim_embd", "n_head", "n_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        if self.dim_embd % self.n_head:
            raise ValueError(f"dim_embd={self.dim_embd} does not divide into n_head={self.n_head}")
        check_sides("connect_list", self.connect_list, self.level_sides)
        if self.quantizer != "nearest" or self.ema_decay is not None:
            raise ValueError("CodeFormer looks codes up in a fixed codebook: quantizer='nearest'")

    def setup(self):
        super().setup()
        grid = self.image_size // self.downsampling
        self.position_emb = self.param(
            "position_emb", nn.initializers.zeros, (grid**2, self.dim_embd), jnp.float32
        )
        self.feat_emb = nn.Dense(self.dim_embd, kernel_init=_LINEAR_INIT, dtype=self.dtype)
        transformer_layer = rematted(TransformerLayer, self.remat)
        self.ft_layers = [
            transformer_layer(self.n_head, 2 * self.dim_embd, self.dtype)
            for _ in range(self.n_layers)
        ]
        self.idx_pred_layer = [
            LayerNorm(dtype=self.dtype),
            nn.Dense(
                self.codebook_size,
                use_bias=False,
                kernel_init=_LINEAR_INIT,
                dtype=self.dtype,
                dot_general=wide_dot_general,
            ),
        ]
        fusion = rematted(Fusion, self.remat)
        self.fuse_convs_dict = {
            str(side): fusion(self.norm_groups, self.fusion_zero_init, self.dtype)
            for side in self.connect_list
        }

    def __call__(self, images: AnyArray, *, w: ArrayLike, adain: bool = False) -> CodeFormerOutput:
        """Restores degraded images.

        Args:
            images: float32 [b, h, w, 3] in [-1, 1].
            w: fidelity weight in [0, 1], a scalar or [b]. It is traced: a sweep does not recompile.
            adain: whether quantized latents get the statistics of the input's latents, as the
                published inference does.

        Raises:
            ValueError, TypeError: for images of another form; the message says what to pass.
        """
        prediction = self.predict(images)
        indices = prediction.indices
        return CodeFormerOutput(
            image=self.restore(prediction, indices, w=w, adain=adain),
            logits=prediction.logits,
            indices=indices,
            latents=prediction.latents,
        )

    def predict(self, images: AnyArray) -> CodePrediction:
        """Returns the prediction that `restore` needs; `method='predict'`, see `__call__`."""
        images = as_input(images, self.downsampling, self.dtype)
        latents, features = self.encoder(images)
        fused = {side: features[side] for side in self.connect_list}
        return CodePrediction(self.predict_codes(latents), latents, fused)

    def restore(
        self,
        prediction: CodePrediction,
        indices: Int[Array, "b n"],
        *,
        w: ArrayLike,
        adain: bool = False,
    ) -> Float[Array, "b h w 3"]:
        """Returns images from chosen codes; `method='restore'`.

        Args:
            prediction: return value of `predict`.
            indices: codes [b, n], such as `prediction.indices`.
            w, adain: see `__call__`.
        """
        return self.finish(self.fuse(prediction, indices, w=w, adain=adain))

    def fuse(
        self,
        prediction: CodePrediction,
        indices: Int[Array, "b n"],
        *,
        w: ArrayLike,
        adain: bool = False,
    ) -> Float[Array, "b h w c"]:
        """Returns features after the largest side that is fused; `method='fuse'`.

        `finish` holds the rest of `restore`, without fusion blocks. If no side is fused, the cut is
        at the smallest level.

        Args:
            prediction, indices, w, adain: see `restore`.
        """
        latents, features = prediction.latents, prediction.features
        quantized = self.quantize.lookup(indices).reshape(latents.shape)
        if self.stop_gradients:
            constants = (quantized, latents, features)
            quantized, latents, features = jax.lax.stop_gradient(constants)
        if adain:
            quantized = adaptive_instance_norm(quantized, latents)
        weight = jnp.asarray(w, jnp.float32).reshape(-1, 1, 1, 1)

        def fuse_level(side, x):
            if side not in self.connect_list:
                return x
            return self.fuse_convs_dict[str(side)](features[side], x, weight)

        return self.generator.up_to(self._last_fused, quantized, fuse_level)

    def finish(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 3"]:
        """Returns images from the features of `fuse`; `method='finish'`."""
        return self.generator.beyond(self._last_fused, features)

    @property
    def _last_fused(self) -> int:
        return max(self.connect_list, default=min(self.level_sides))

    def predict_codes(self, latents: Float[Array, "b h w d"]) -> Float[Array, "b n k"]:
        """Returns scores of the codes at every site of the latents, row-major, [b, h * w, K]."""
        b, h, w, d = latents.shape
        positions = self._positions(h, w).astype(self.dtype)
        tokens = self.feat_emb(latents.reshape(b, h * w, d))
        for layer in self.ft_layers:
            tokens = layer(tokens, positions)
        norm, head = self.idx_pred_layer
        return head(norm(tokens))

    def _positions(self, h: int, w: int) -> Float[Array, "1 n d"]:
        grid = self.image_size // self.downsampling
        positions = self.position_emb
        if (h, w) != (grid, grid):
            positions = resize_positions(positions, (h, w))
        return positions[None]
