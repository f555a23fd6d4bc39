"""Gumbel softmax quantizer (arXiv 1611.01144), DALL-E style, as VQGAN offers it."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int

from codeformer_jax.nn.layers import Conv, sum_dtype
from codeformer_jax.nn.quantizer import (
    LATENT_AXES,
    QUANTIZERS,
    Quantized,
    Quantizer,
    code_perplexity,
    count_codes,
)
from codeformer_jax.ops.checks import AnyArray, as_features, as_keys


def check_gumbel(network: Any) -> None:
    """Raises ValueError if a `VQGAN` has Gumbel settings out of range."""
    for name in ("temperature", "temperature_final"):
        if not getattr(network, name) > 0:
            raise ValueError(f"{name} is {getattr(network, name)}; expected a positive number")
    for name in ("kl_weight", "temperature_steps"):
        if not getattr(network, name) >= 0:
            raise ValueError(f"{name} is {getattr(network, name)}; expected 0 or more")


@QUANTIZERS.register("gumbel")
class GumbelQuantizer(Quantizer):
    """Codes drawn by Gumbel softmax from the logits of a 1x1 convolution.

    Noise needs keys, one per image, or an rng 'gumbel'. Without either, the codes are the argmax.
    loss = kl_weight * KL(softmax(logits) || uniform), summed over codes, averaged over sites.

    Attributes:
        codebook_size: K.
        embedding_dim: d.
        straight_through: one-hot values with the gradient of the softmax, with noise. False, as
            published, returns soft mixtures with noise; without noise codes are always one-hot.
        temperature: softmax temperature unless the call gives one; lower is closer to one-hot.
        kl_weight: weight of the KL term.
        dtype: dtype of the computation, float32 or wider.
    """

    codebook_size: int
    embedding_dim: int
    straight_through: bool = True
    temperature: float = 1.0
    kl_weight: float = 5e-4
    dtype: DTypeLike = jnp.float32

    draws_noise: ClassVar[bool] = True

    @classmethod
    def from_model(cls, model: Any) -> "GumbelQuantizer":
        """Returns the quantizer of a `VQGAN` with these fields."""
        return cls(
            model.codebook_size,
            model.emb_dim,
            straight_through=model.straight_through,
            kl_weight=model.kl_weight,
            temperature=model.temperature,
            dtype=sum_dtype(model.dtype),
        )

    def setup(self):
        self.proj = Conv(self.codebook_size, kernel_size=1, dtype=self.dtype)
        self.embed = self.param(
            "embed",
            nn.initializers.normal(1.0),
            (self.codebook_size, self.embedding_dim),
            jnp.float32,
        )

    def codebook(self) -> Float[Array, "k d"]:
        """Returns the codebook [K, d]."""
        return self.embed

    def lookup(self, indices: Int[Array, "*n"]) -> Float[Array, "*n d"]:
        """Returns codebook rows for `indices`."""
        return self.embed[indices]

    def __call__(
        self,
        latents: AnyArray,
        keys: AnyArray | None = None,
        temperature: ArrayLike | None = None,
    ) -> Quantized:
        """Quantizes latents.

        Args:
            latents: float32 [b, h, w, c].
            keys: typed keys [b] of the noise; None uses the rng 'gumbel', or no noise.
            temperature: softmax temperature; None uses the field.

        Raises:
            ValueError: for another number of axes or keys.
            TypeError: for integers, float64 or old-style keys.
        """
        latents = as_features(latents, "latents", LATENT_AXES, dtype=jnp.result_type(float))
        logits = self.proj(latents)
        b, h, w, k = logits.shape
        hard, noisy = True, logits
        if keys is None and self.has_rng("gumbel"):
            keys = jax.random.split(self.make_rng("gumbel"), b)
        if keys is not None:
            hard = self.straight_through
            draw = lambda key: jax.random.gumbel(key, (h, w, k), jnp.float32)  # noqa: E731
            noisy = logits + jax.vmap(draw)(as_keys(keys, b))
        temperature = self.temperature if temperature is None else temperature
        soft = jax.nn.softmax(noisy / temperature, axis=-1)
        indices = jnp.argmax(noisy, axis=-1).astype(jnp.int32)
        weights = soft
        if hard:
            weights = soft + jax.lax.stop_gradient(jax.nn.one_hot(indices, k) - soft)
        probabilities = jax.nn.softmax(logits, axis=-1)
        kl = jnp.sum(probabilities * jnp.log(probabilities * k + 1e-10), axis=-1).mean()
        counts = count_codes(indices, k)
        return Quantized(
            latents=jnp.matmul(weights, self.embed, precision=jax.lax.Precision.HIGHEST),
            indices=indices.reshape(b, h * w),
            loss=self.kl_weight * kl,
            perplexity=code_perplexity(counts),
            code_counts=counts,
            mean_distance=jnp.zeros((), jnp.float32),
            logits=logits,
        )
