"""Quantizers: their registry, and the nearest codebook row (VQ-VAE, arXiv 1711.00937).

`QUANTIZERS` names the quantizers of a VQGAN. A module of your own, named in `config.plugins`, adds
one like this; `config.model.quantizer = "sign"` then chooses it:

    import jax
    import jax.numpy as jnp

    from codeformer_jax.nn import QUANTIZERS, Quantized, Quantizer
    from codeformer_jax.nn.quantizer import code_perplexity, count_codes


    @QUANTIZERS.register("sign")
    class SignQuantizer(Quantizer):
        bits: int

        @classmethod
        def from_model(cls, model):
            return cls(bits=model.emb_dim)

        def __call__(self, latents):
            b, h, w, d = latents.shape
            codes = jnp.where(latents > 0, 1.0, -1.0)
            indices = jnp.matmul((latents > 0).astype(jnp.int32), 2 ** jnp.arange(d))
            counts = count_codes(indices, 2**self.bits)
            return Quantized(
                latents=latents + jax.lax.stop_gradient(codes - latents),
                indices=indices.reshape(b, h * w),
                loss=0.25 * jnp.mean((latents - codes) ** 2),
                perplexity=code_perplexity(counts),
                code_counts=counts,
                mean_distance=jnp.zeros(()),
            )

        def lookup(self, indices):
            bits = jnp.stack([indices >> bit & 1 for bit in range(self.bits)], axis=-1)
            return jnp.where(bits == 1, 1.0, -1.0)
"""

from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from codeformer_jax.nn.layers import sum_dtype
from codeformer_jax.ops.checks import AnyArray, as_features
from codeformer_jax.system.registry import Registry

LATENT_AXES = ("batch", "height", "width", "features")
CODEBOOK_STARTS = ("uniform", "latents")


@flax.struct.dataclass
class Quantized:
    """Output of a quantizer for latents [b, h, w, d].

    Attributes:
        latents: quantized latents [b, h, w, d]; gradients pass to the input.
        indices: chosen codebook rows, row-major over the map, [b, h * w] in [0, K).
        loss: scalar codebook loss (nearest) or KL to the uniform distribution (Gumbel).
        perplexity: exp of the entropy of code use over the batch, in [1, K].
        code_counts: how often each code was used in the batch, [K].
        mean_distance: mean squared distance between a latent and a code (nearest only, else 0).
        logits: scores of the codes [b, h, w, K] (Gumbel only, else None).
    """

    latents: Float[Array, "b h w d"]
    indices: Int[Array, "b n"]
    loss: Float[Array, ""]
    perplexity: Float[Array, ""]
    code_counts: Float[Array, "k"]
    mean_distance: Float[Array, ""]
    logits: Float[Array, "b h w k"] | None = None


class Quantizer(nn.Module):
    """Base class of quantizers, which `QUANTIZERS` registers by name.

    A subclass implements `__call__` and `lookup`, and `from_model` where its fields are others than
    the two of the default. Its parameters lie under 'quantize' of a VQGAN's. The collection
    'codebook' is reserved for `VectorQuantizer`'s moving average; state of another kind needs a
    collection with another name.

    Attributes:
        draws_noise: whether `__call__` also takes `keys`, one per image or None, and a
            `temperature`, a scalar or None.
    """

    draws_noise: ClassVar[bool] = False

    @classmethod
    def from_model(cls, model: Any) -> "Quantizer":
        """Returns the quantizer of a `VQGAN` with these fields."""
        return cls(model.codebook_size, model.emb_dim)

    def __call__(self, latents: Float[Array, "b h w d"]) -> Quantized:
        """Quantizes latents, float32 [b, h, w, d]; indices lie in [0, model.codebook_size)."""
        raise NotImplementedError

    def lookup(self, indices: Int[Array, "*n"]) -> Float[Array, "*n d"]:
        """Returns the quantized latents for codes."""
        raise NotImplementedError

    def update(self, latents: Float[Array, "b h w d"], indices: Int[Array, "b n"]) -> None:
        """Updates a codebook that gradients do not train; a no-op by default.

        Args:
            latents: encoder outputs [b, h, w, d].
            indices: their codes [b, h * w].
        """


QUANTIZERS: Registry[type[Quantizer]] = Registry("config.model.quantizer")


def check_codebook_init(name: str) -> None:
    """Raises ValueError for a name that is not in `CODEBOOK_STARTS`."""
    if name not in CODEBOOK_STARTS:
        raise ValueError(f"codebook_init is {name!r}; expected 'latents' or 'uniform'")


def count_codes(indices: Int[Array, "..."], codebook_size: int) -> Float[Array, "k"]:
    """Returns how often each code occurs, [K] float32.

    Args:
        indices: codes of any shape in [0, K).
        codebook_size: K.
    """
    return jnp.zeros(codebook_size, jnp.float32).at[indices.reshape(-1)].add(1.0)


def code_perplexity(counts: Float[Array, "k"]) -> Float[Array, ""]:
    """Returns exp(entropy) of code use: 1 if one code is used, K if all are used equally."""
    p = counts / jnp.maximum(counts.sum(), 1.0)
    return jnp.exp(-jnp.sum(p * jnp.log(p + 1e-10)))


def squared_distances(
    latents: Float[Array, "n d"], codebook: Float[Array, "k d"]
) -> Float[Array, "n k"]:
    """Returns ||z - e||^2 for every latent and code in float32, whatever the matmul default is.

    Args:
        latents: z, [n, d].
        codebook: e, [K, d].
    """
    products = jnp.matmul(latents, codebook.T, precision=jax.lax.Precision.HIGHEST)
    norms = jnp.sum(latents**2, axis=1)[:, None] + jnp.sum(codebook**2, axis=1)[None, :]
    return norms - 2 * products


def codes_from_latents(
    key: Key[Array, ""], latents: Float[Array, "b h w d"], size: int
) -> Float[Array, "k d"]:
    """Draws initial codes from latents, so that most codes are used from the beginning.

    Args:
        key: threefry key.
        latents: encoder outputs of real images [b, h, w, d].
        size: number of codes K.

    Returns:
        K latents drawn without replacement; noisy repeats if there are fewer.
    """
    flat = latents.reshape(-1, latents.shape[-1])
    draw, jitter = jax.random.split(key)
    repeats = -(-size // flat.shape[0])
    order = jax.random.permutation(draw, jnp.tile(flat, (repeats, 1)))[:size]
    noise = 0.1 * jnp.std(flat) if repeats > 1 else 0.0
    return order + noise * jax.random.normal(jitter, order.shape, order.dtype)


@QUANTIZERS.register("nearest")
class VectorQuantizer(Quantizer):
    """Nearest codebook row with straight-through gradients (VQ-VAE, eq. 1-3).

    loss = ||sg(z) - e||^2 + beta ||z - sg(e)||^2, both as means over all elements.

    Two settings decide how many codes are used. `codebook_init='latents'` draws the first codes
    from the latents that `init` gets, so pass real data. A moving average with `restart_below`
    replaces unused codes. Such a codebook is not a parameter but the collection 'codebook'. A
    training step updates it by making the collection mutable and passing the rng 'codes'::

        quantizer = VectorQuantizer(64, 8, codebook_init="latents", ema_decay=0.95,
                                    restart_below=0.1)
        variables = quantizer.init(key, latents)
        quantized, codebook = quantizer.apply(
            variables, latents, mutable=["codebook"], rngs={"codes": step_key}
        )
        variables = {**variables, **codebook}

    Attributes:
        codebook_size: K.
        embedding_dim: d.
        beta: weight of the commitment term, or of the codebook term; see `beta_on`.
        beta_on: 'commitment' as in the paper, or 'codebook' as in the published CodeFormer and
            Taming training.
        ema_decay: None trains the codebook by its loss. Otherwise it is a moving average of the
            latents assigned to each code (VQ-VAE, appendix A.1) and only the commitment term
            remains.
        ema_epsilon: Laplace smoothing of the counts.
        restart_below: with a moving average, a code whose average count per batch falls below
            this is replaced by a latent of the batch, drawn with the rng 'codes'; 0 is off.
            Without a moving average `tasks.restart` does this instead.
        codebook_init: 'uniform' draws codes from U(+-1/K) as published, far from most encoders'
            latents, so that few of them are ever used; 'latents' see `codes_from_latents`.
    """

    codebook_size: int
    embedding_dim: int
    beta: float = 0.25
    beta_on: str = "commitment"
    ema_decay: float | None = None
    ema_epsilon: float = 1e-5
    restart_below: float = 0.0
    codebook_init: str = "uniform"

    @classmethod
    def from_model(cls, model: Any) -> "VectorQuantizer":
        """Returns the quantizer of a `VQGAN` or `VQVAE` with these fields."""
        return cls(
            model.codebook_size,
            model.emb_dim,
            model.beta,
            model.beta_on,
            model.ema_decay,
            restart_below=model.restart_below,
            codebook_init=model.codebook_init,
        )

    def __post_init__(self):
        check_codebook_init(self.codebook_init)
        if self.beta_on not in ("commitment", "codebook"):
            raise ValueError(f"beta_on is {self.beta_on!r}; expected 'commitment' or 'codebook'")
        super().__post_init__()

    def setup(self):
        shape = (self.codebook_size, self.embedding_dim)

        def init(key: jax.Array) -> jax.Array:
            bound = 1 / self.codebook_size
            return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

        if self.ema_decay is None:
            self.embedding = self.param("embedding", init)
        else:
            self.ema_embedding = self.variable(
                "codebook", "embedding", lambda: init(self.make_rng("params"))
            )
            self.ema_counts = self.variable(
                "codebook", "counts", jnp.ones, (self.codebook_size,), jnp.float32
            )
            self.ema_sums = self.variable("codebook", "sums", lambda: self.ema_embedding.value)

    def codebook(self) -> Float[Array, "k d"]:
        """Returns the codebook [K, d]."""
        if self.ema_decay is None:
            return self.get_variable("params", "embedding")
        return self.ema_embedding.value

    def lookup(self, indices: Int[Array, "*n"]) -> Float[Array, "*n d"]:
        """Returns codebook rows for `indices`."""
        return self.codebook()[indices]

    def __call__(self, latents: AnyArray) -> Quantized:
        """Quantizes latents, float32 [b, h, w, d].

        Raises:
            ValueError, TypeError: for latents of another form; the message says what to pass.
        """
        latents = as_features(latents, "latents", LATENT_AXES, dtype=jnp.result_type(float))
        latents = latents.astype(sum_dtype(latents.dtype))
        b, h, w, d = latents.shape
        flat = latents.reshape(-1, d)
        if self.is_initializing() and self.codebook_init == "latents":
            self._start_from(latents)
        distances = squared_distances(jax.lax.stop_gradient(flat), self.codebook())
        indices = jnp.argmin(distances, axis=1).astype(jnp.int32)
        codes = self.lookup(indices).reshape(b, h, w, d)
        counts = count_codes(indices, self.codebook_size)
        return Quantized(
            latents=latents + jax.lax.stop_gradient(codes - latents),
            indices=indices.reshape(b, h * w),
            loss=self._loss(latents, codes, flat, indices, counts),
            perplexity=code_perplexity(counts),
            code_counts=counts,
            mean_distance=jnp.mean(distances),
        )

    def _start_from(self, latents):
        codes = codes_from_latents(self.make_rng("params"), latents, self.codebook_size)
        if self.ema_decay is None:
            self.put_variable("params", "embedding", codes)
        else:
            self.ema_embedding.value = self.ema_sums.value = codes

    def _loss(self, latents, codes, flat, indices, counts) -> Float[Array, ""]:
        commitment = jnp.mean((latents - jax.lax.stop_gradient(codes)) ** 2)
        if self.ema_decay is not None:
            if not self.is_initializing() and self.is_mutable_collection("codebook"):
                self._update_average(flat, counts, indices)
            return self.beta * commitment
        codebook = jnp.mean((jax.lax.stop_gradient(latents) - codes) ** 2)
        if self.beta_on == "commitment":
            return codebook + self.beta * commitment
        return commitment + self.beta * codebook

    def update(self, latents: Float[Array, "b h w d"], indices: Int[Array, "b n"]):
        """Updates the moving average by one batch; a no-op without one.

        Args:
            latents: encoder outputs [b, h, w, d].
            indices: their codes [b, h * w].
        """
        if self.ema_decay is not None:
            flat = latents.astype(sum_dtype(latents.dtype)).reshape(-1, latents.shape[-1])
            counts = count_codes(indices, self.codebook_size)
            self._update_average(flat, counts, indices.reshape(-1))

    def _update_average(self, flat, counts, indices):
        decay, flat = self.ema_decay, jax.lax.stop_gradient(flat)
        sums = jnp.zeros_like(self.ema_sums.value).at[indices].add(flat)
        sums = decay * self.ema_sums.value + (1 - decay) * sums
        counts = decay * self.ema_counts.value + (1 - decay) * counts
        if self.restart_below:
            dead = counts < self.restart_below
            drawn = jax.random.choice(self.make_rng("codes"), flat, dead.shape)
            sums = jnp.where(dead[:, None], drawn, sums)
            counts = jnp.where(dead, 1.0, counts)
        total = counts.sum()
        smoothing = total / (total + self.codebook_size * self.ema_epsilon)
        self.ema_sums.value, self.ema_counts.value = sums, counts
        self.ema_embedding.value = sums / ((counts + self.ema_epsilon) * smoothing)[:, None]
