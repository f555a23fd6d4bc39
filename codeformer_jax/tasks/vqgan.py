"""Stage I: VQGAN trained with L1, perceptual, adversarial and codebook losses."""

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Key, UInt8

from codeformer_jax.metrics import psnr
from codeformer_jax.nn import LPIPS, VQGAN, PatchDiscriminator
from codeformer_jax.tasks import common, groups
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
        self.discriminator = PatchDiscriminator(**common.network_fields(config.discriminator))
        self.lpips = LPIPS(normalize_twice=config.loss.lpips_normalize_twice)
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
                self.discriminator, self.optimizer, discriminator_key, real
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
        real = common.from_uint8(images)

        def forward(params):
            output, collections = self.module.apply(
                {"params": params, **state.collections},
                real,
                mutable=list(state.collections),
                rngs={"gumbel": key, "codes": key},
            )
            return (output.image, output.codebook_loss), (output, collections)

        (fake, codebook_loss), pullback, (output, collections) = jax.vjp(
            forward, state.params, has_aux=True
        )
        image_loss = common.ImageLoss(self.config.loss, self.lpips, self.discriminator)
        total, metrics, cotangent, discriminator = image_loss(
            fake,
            real,
            frozen,
            state.discriminator if phase.gan else None,
            last_layer_gradient=lambda g: self._last_kernel(pullback((g, jnp.zeros(())))[0]),
        )
        (gradients,) = pullback((cotangent, jnp.ones(())))
        metrics |= {"loss": total + codebook_loss, "codebook_loss": codebook_loss}
        if phase.gan:
            discriminator, gan_metrics, _ = common.discriminator_step(
                *(self.discriminator, self.optimizer, discriminator, real, fake, state.step),
                self.config.loss.statistics_groups,
            )
            metrics |= gan_metrics
            state = state.replace(discriminator=discriminator)
        state = state.replace(collections=collections)
        counts = output.quantized.code_counts
        state, metrics = common.advance(
            self.config, self.optimizer, state, gradients, counts, metrics
        )
        if self.module.restart_below and "embedding" in state.params.get("quantize", {}):
            # A codebook that is a moving average restarts its codes itself.
            state = restart_dead_codes(state, output.latents, key, self.module.restart_below)
        return state, metrics

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
