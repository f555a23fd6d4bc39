"""Stage I: VQGAN trained with L1, perceptual, adversarial and codebook losses."""

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Key, UInt8

from codeformer_jax.metrics import psnr
from codeformer_jax.nn import VQGAN
from codeformer_jax.nn.quantizer import count_codes
from codeformer_jax.tasks import accumulate, common, groups
from codeformer_jax.tasks.image_losses import make_image_losses
from codeformer_jax.tasks.restart import restart_dead_codes
from codeformer_jax.tasks.state import PyTree, TrainState, make_optimizer


@flax.struct.dataclass
class Phase:
    """`gan`: whether the discriminator trains and the generator sees it."""

    gan: bool = flax.struct.field(pytree_node=False)


class VQGANTask:
    """loss = L1 + perceptual + gan_weight * lambda * hinge + codebook loss (VQGAN, eq. 4-7).

    `config`: model, discriminator, loss, optimizer, ema_decay, ema_warmup, steps, codebook_init.
    """

    network = "vqgan"
    needs_teacher = False

    def __init__(self, config: ml_collections.ConfigDict):
        self.config = config
        self.module = VQGAN(**common.network_fields(config.model))
        self.image_losses = make_image_losses(
            config, self.module.dtype, self._last_kernel, ("encoder", "quantize", "generator")
        )
        self.slices = accumulate.slices_of(config)
        # A codebook that is a moving average restarts its codes itself.
        self.restarts = (
            self.module.restart_below > 0
            and self.module.quantizer == "nearest"
            and self.module.ema_decay is None
        )
        self.optimizer = make_optimizer(config.optimizer, config.steps)
        groups.check(config)
        if config.codebook_init not in ("latents", "uniform"):
            raise ValueError(
                f"codebook_init is {config.codebook_init!r}; expected 'latents' or 'uniform'"
            )

    def init(
        self, key: Key[Array, ""], images: UInt8[Array, "b h w 3"], previous: PyTree | None
    ) -> TrainState:
        """Random networks, or the VQGAN `previous`; codes start from encoder outputs of `images`.

        'uniform' is the published U(+-1/K) start, from which most codes of a short run die.
        """
        generator_key, discriminator_key, codes_key = jax.random.split(key, 3)
        real = common.from_uint8(images)
        variables = dict(self.module.init(generator_key, real[:1]))
        params = variables.pop("params")
        if previous is not None:
            source = common.plain_codebook(previous)
            if "codebook" in variables:
                codes = source["quantize"]["embedding"]
                average = variables["codebook"]["quantize"]
                variables = common.transplant(
                    {"codebook": {"quantize": {**average, "embedding": average["sums"]}}},
                    {"codebook": {"quantize": {**average, "embedding": codes, "sums": codes}}},
                    ["codebook"],
                )
                source = {name: value for name, value in source.items() if name != "quantize"}
            params = common.transplant(params, source, params)
        elif self.config.codebook_init == "latents" and self.module.quantizer == "nearest":
            latents = self.module.apply({"params": params, **variables}, real).latents
            codes = _draw_codes(codes_key, latents, self.module.codebook_size)
            if "codebook" in variables:
                average = {**variables["codebook"]["quantize"], "embedding": codes, "sums": codes}
                variables = {"codebook": {"quantize": average}}
            else:
                params = {**params, "quantize": {"embedding": codes}}
        size = self.module.codebook_size
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            ema_params=jax.tree.map(jnp.copy, params),
            opt_state=self.optimizer.init(params),
            collections=variables,
            code_usage=jnp.full(size, 1 / size, jnp.float32),
            skipped=jnp.zeros((), jnp.int32),
            skipped_in_row=jnp.zeros((), jnp.int32),
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
        codes: None = None,
    ) -> tuple[TrainState, common.Metrics]:
        measured = accumulate.measure(
            lambda part: self._measure(state, frozen, part, phase),
            {"images": images, "keys": jax.random.split(key, images.shape[0])},
            self.slices,
        )
        gradients, metrics = self.image_losses.weighted(measured.means)
        metrics["loss"] = metrics.pop("image_loss") + metrics["codebook_loss"]
        state, judged = self.image_losses.update_discriminator(
            self.optimizer, state, measured.means, state.step
        )
        if state.collections:
            state = state.replace(collections=self._move_codebook(state, measured.images, key))
        counts = count_codes(measured.images["indices"], self.module.codebook_size)
        state, metrics = common.advance(
            self.config, self.optimizer, state, gradients, counts, metrics | judged
        )
        if self.restarts:
            below = self.module.restart_below
            state = restart_dead_codes(state, measured.images["latents"], key, below)
        return state, metrics

    def _measure(
        self, state: TrainState, frozen: dict[str, PyTree], part: PyTree, phase: Phase
    ) -> accumulate.Measured:
        """Gradients, losses and codes of a slice: `images` and `keys` of Gumbel noise."""
        real = common.from_uint8(part["images"])

        def forward(params):
            variables = {"params": params, **state.collections}
            output = self.module.apply(variables, real, noise_keys=part["keys"])
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
        images = {"indices": output.indices}
        if state.collections or self.restarts:
            images["latents"] = output.latents
        return accumulate.Measured(means=means, images=images)

    def _move_codebook(self, state: TrainState, images: PyTree, key: Key[Array, ""]) -> PyTree:
        """The codebook's moving average after the whole batch."""
        _, collections = self.module.apply(
            {"params": state.params, **state.collections},
            images["latents"],
            images["indices"],
            method="update_codebook",
            mutable=list(state.collections),
            rngs={"codes": key},
        )
        return collections

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
    ) -> common.Evaluated:
        real = common.from_uint8(images)
        output = self.module.apply(state.variables(), real)
        return common.Evaluated(
            metrics={"psnr": psnr(common.to_unit(output.image), common.to_unit(real))},
            panels={"reconstruction": output.image, "truth": real},
            indices=output.indices,
        )


def _draw_codes(
    key: Key[Array, ""], latents: Float[Array, "b h w d"], size: int
) -> Float[Array, "k d"]:
    """`size` latents drawn without replacement; where there are fewer, repeats with some noise."""
    flat = latents.reshape(-1, latents.shape[-1])
    draw, jitter = jax.random.split(key)
    repeats = -(-size // flat.shape[0])
    order = jax.random.permutation(draw, jnp.tile(flat, (repeats, 1)))[:size]
    noise = 0.1 * jnp.std(flat) if repeats > 1 else 0.0
    return order + noise * jax.random.normal(jitter, order.shape)
