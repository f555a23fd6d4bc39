"""Stage I: VQGAN trained with L1, perceptual, adversarial and codebook losses."""

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Key, UInt8

from codeformer_jax.metrics import psnr
from codeformer_jax.nn import VQGAN
from codeformer_jax.tasks import accumulate, codebook, common, groups
from codeformer_jax.tasks.image_losses import make_image_losses
from codeformer_jax.tasks.protocol import TASKS, BestScore, Evaluated, Task
from codeformer_jax.tasks.state import PyTree, TrainState


@flax.struct.dataclass
class Phase:
    """Schedule of a step.

    Attributes:
        gan: whether the discriminator trains and the generator's loss includes it.
    """

    gan: bool = flax.struct.field(pytree_node=False)


@TASKS.register("vqgan")
class VQGANTask(Task):
    """loss = L1 + perceptual + gan_weight * lambda * hinge + codebook loss (VQGAN, eq. 4-7).

    Reads model, discriminator, loss, optimizer, ema_decay, ema_warmup, steps and codebook_init of
    the config.
    """

    best_score = BestScore("psnr")

    def __init__(self, config: ml_collections.ConfigDict):
        super().__init__(config)
        self.module = VQGAN(**common.network_fields(config.model))
        self.codebook_size = self.module.codebook_size
        self.image_losses = make_image_losses(
            config, self.module.dtype, self._last_kernel, ("encoder", "quantize", "generator")
        )
        self.lpips = self.image_losses.needed_lpips
        groups.check(config)

    def init(
        self, key: Key[Array, ""], images: UInt8[Array, "b h w 3"], previous: PyTree | None
    ) -> TrainState:
        """Returns the first state: random networks, or the VQGAN `previous`.

        Args:
            key: key of the random parameters.
            images: the first batch; codes start from their latents with `codebook_init` 'latents'.
            previous: variables of a VQGAN, or None.
        """
        generator_key, discriminator_key, codes_key = jax.random.split(key, 3)
        real = common.from_uint8(images)
        params, variables = codebook.init_network(
            self.config, self.module, (generator_key, codes_key), real, previous
        )
        return TrainState.first(
            params,
            params,
            self.optimizer,
            self.codebook_size,
            collections=variables,
            discriminator=common.init_discriminator(
                self.image_losses.discriminator, self.optimizer, discriminator_key, real
            ),
        )

    def phase(self, step: int) -> Phase:
        return Phase(gan=step >= self.config.loss.gan_start and self.config.loss.gan_weight > 0)

    def train_step(
        self,
        state: TrainState,
        frozen: dict[str, PyTree],
        images: common.Images,
        key: Key[Array, ""],
        phase: Phase,
    ) -> tuple[TrainState, common.Metrics]:
        measured = accumulate.measure(
            lambda part: self._measure(state, frozen, part, phase),
            {"images": images, "keys": jax.random.split(key, images.shape[0])},
            self.slices,
        )
        gradients, metrics = self.image_losses.weighted(measured.means)
        metrics["loss"] = metrics.pop("image_loss") + metrics["codebook_loss"]
        return self.advance(
            state,
            gradients,
            metrics,
            codes=measured.images["indices"],
            discriminator=measured.means.get("discriminator"),
            finish=codebook.finish(self.module, measured.images, key),
        )

    def _measure(
        self, state: TrainState, frozen: dict[str, PyTree], part: PyTree, phase: Phase
    ) -> accumulate.Measured:
        """Returns gradients, losses and codes of a slice: `images`, and `keys` of Gumbel noise."""
        real = common.from_uint8(part["images"])
        temperature = self.module.temperature_at(state.step)

        def forward(params):
            variables = {"params": params, **state.collections}
            output = self.module.apply(
                variables, real, noise_keys=part["keys"], temperature=temperature
            )
            return (output.image, output.codebook_loss), output

        (fake, codebook_loss), pullback, output = jax.vjp(forward, state.params, has_aux=True)
        means = self.image_losses.measure(
            fake,
            real,
            frozen,
            state.discriminator if phase.gan else None,
            lambda image, loss: pullback((image, jnp.float32(loss)))[0],
            whole=self.slices == 1,
        )
        means["metrics"]["codebook_loss"] = codebook_loss
        if self.module.draws_noise:
            means["metrics"]["temperature"] = temperature
        return accumulate.Measured(means=means, images=codebook.seen(self.module, state, output))

    def _last_kernel(self, gradients: PyTree) -> Float[Array, "3 3 c 3"]:
        blocks = gradients["generator"]
        last = max(blocks, key=lambda name: int(name.removeprefix("blocks_")))
        return blocks[last]["kernel"]

    def eval_step(
        self,
        state: TrainState,
        frozen: dict[str, PyTree],
        images: UInt8[Array, "b h w 3"],
        keys: Key[Array, "b"],
    ) -> Evaluated:
        real = common.from_uint8(images)
        output = self.module.apply(state.variables(), real)
        return Evaluated(
            metrics={"psnr": psnr(common.to_unit(output.image), common.to_unit(real))},
            panels={"reconstruction": output.image, "truth": real},
            indices=output.indices,
        )
