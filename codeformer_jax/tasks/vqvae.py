"""VQ-VAE: squared error and codebook losses alone (arXiv 1711.00937, eq. 3)."""

import math

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Key, UInt8

from codeformer_jax import losses
from codeformer_jax.metrics import psnr
from codeformer_jax.nn import VQVAE
from codeformer_jax.tasks import accumulate, codebook, common
from codeformer_jax.tasks.state import PyTree, TrainState, make_optimizer


@flax.struct.dataclass
class Phase:
    """All steps are alike."""


class VQVAETask:
    """loss = pixel_weight * MSE + codebook loss, images in [-1, 1].

    `config`: model, loss.pixel_weight, optimizer, ema_decay, ema_warmup, steps, codebook_init.
    Evaluation reports, of each image, `mse` and `psnr` of the reconstruction, and what its codes
    cost under the uniform prior: `code_bits` a code and `bits_per_dim` of the image's values.
    """

    network = "vqvae"
    needs_teacher = False

    def __init__(self, config: ml_collections.ConfigDict):
        self.config = config
        self.module = VQVAE(**common.network_fields(config.model))
        self.slices = accumulate.slices_of(config)
        self.optimizer = make_optimizer(config.optimizer, config.steps)

    def init(
        self, key: Key[Array, ""], images: UInt8[Array, "b h w 3"], previous: PyTree | None
    ) -> TrainState:
        """A random network, or the VQ-VAE `previous`; see `codebook.init_network`."""
        network_key, codes_key = jax.random.split(key)
        real = common.from_uint8(images)
        params, variables = codebook.init_network(
            self.config, self.module, (network_key, codes_key), real, previous
        )
        codes = self.module.codebook_size
        return TrainState.first(params, params, self.optimizer, codes, collections=variables)

    def phase(self, step: int) -> Phase:
        return Phase()

    def train_step(
        self,
        state: TrainState,
        frozen: dict[str, PyTree],
        images: common.Images,
        key: Key[Array, ""],
        phase: Phase,
        codes: None = None,
    ) -> tuple[TrainState, common.Metrics]:
        measured = accumulate.measure(
            lambda part: self._measure(state, part), {"images": images}, self.slices
        )
        return common.advance(
            self.config,
            self.optimizer,
            state,
            measured.means["gradients"],
            measured.images["indices"],
            measured.means["metrics"],
            finish=codebook.finish(self.module, measured.images, key),
        )

    def _measure(self, state: TrainState, part: PyTree) -> accumulate.Measured:
        """Gradients, losses, codes and latents of a slice."""
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
    ) -> common.Evaluated:
        real = common.from_uint8(images)
        output = self.module.apply(state.variables(), real)
        bits = jnp.full(real.shape[0], math.log2(self.module.codebook_size), jnp.float32)
        codes_per_value = output.indices.shape[1] / math.prod(real.shape[1:])
        return common.Evaluated(
            metrics={
                "mse": jnp.mean(jnp.square(output.image - real), axis=(1, 2, 3)),
                "psnr": psnr(common.to_unit(output.image), common.to_unit(real)),
                "code_bits": bits,
                "bits_per_dim": bits * codes_per_value,
            },
            panels={"reconstruction": output.image, "truth": real},
            indices=output.indices,
        )
