"""VQ-VAE, trained with squared error and codebook losses (arXiv 1711.00937, eq. 3)."""

import math

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Key, UInt8

from codeformer_jax import losses
from codeformer_jax.metrics import psnr
from codeformer_jax.nn import VQVAE
from codeformer_jax.tasks import accumulate, codebook, common
from codeformer_jax.tasks.protocol import TASKS, BestScore, Evaluated, Task
from codeformer_jax.tasks.state import PyTree, TrainState


@TASKS.register("vqvae")
class VQVAETask(Task):
    """loss = pixel_weight * MSE + codebook loss, images in [-1, 1].

    Reads model, loss.pixel_weight, optimizer, ema_decay, ema_warmup, steps and codebook_init of the
    config. Evaluation reports `mse` and `psnr` of each reconstruction, and the cost of its codes
    under the uniform prior: `code_bits` per code and `bits_per_dim` per value of the image.
    """

    best_score = BestScore("psnr")

    def __init__(self, config: ml_collections.ConfigDict):
        super().__init__(config)
        self.module = VQVAE(**common.network_fields(config.model))
        self.codebook_size = self.module.codebook_size

    def init(
        self, key: Key[Array, ""], images: UInt8[Array, "b h w 3"], previous: PyTree | None
    ) -> TrainState:
        """Returns the first state: a random network, or the VQ-VAE `previous`.

        See `codebook.init_network`.
        """
        network_key, codes_key = jax.random.split(key)
        real = common.from_uint8(images)
        params, variables = codebook.init_network(
            self.config, self.module, (network_key, codes_key), real, previous
        )
        return TrainState.first(
            params, params, self.optimizer, self.codebook_size, collections=variables
        )

    def train_step(
        self,
        state: TrainState,
        frozen: dict[str, PyTree],
        images: common.Images,
        key: Key[Array, ""],
        phase: None,
    ) -> tuple[TrainState, common.Metrics]:
        measured = accumulate.measure(
            lambda part: self._measure(state, part), {"images": images}, self.slices
        )
        return self.advance(
            state,
            measured.means["gradients"],
            measured.means["metrics"],
            codes=measured.images["indices"],
            finish=codebook.finish(self.module, measured.images, key),
        )

    def _measure(self, state: TrainState, part: PyTree) -> accumulate.Measured:
        """Returns gradients, losses, codes and latents of a slice."""
        real = common.from_uint8(part["images"])

        def loss(params):
            output = self.module.apply({"params": params, **state.collections}, real)
            error = losses.mse(output.image, real)
            total = self.config.loss.pixel_weight * error + output.codebook_loss
            metrics = {"loss": total, "mse": error, "codebook_loss": output.codebook_loss}
            return total, (metrics, output)

        gradients, (metrics, output) = jax.grad(loss, has_aux=True)(state.params)
        return accumulate.Measured(
            means={"gradients": gradients, "metrics": metrics},
            images=codebook.seen(self.module, state, output),
        )

    def eval_step(
        self,
        state: TrainState,
        frozen: dict[str, PyTree],
        images: UInt8[Array, "b h w 3"],
        keys: Key[Array, "b"],
    ) -> Evaluated:
        real = common.from_uint8(images)
        output = self.module.apply(state.variables(), real)
        bits = jnp.full(real.shape[0], math.log2(self.module.codebook_size), jnp.float32)
        codes_per_value = output.indices.shape[1] / math.prod(real.shape[1:])
        return Evaluated(
            metrics={
                "mse": jnp.mean(jnp.square(output.image - real), axis=(1, 2, 3)),
                "psnr": psnr(common.to_unit(output.image), common.to_unit(real)),
                "code_bits": bits,
                "bits_per_dim": bits * codes_per_value,
            },
            panels={"reconstruction": output.image, "truth": real},
            indices=output.indices,
        )
