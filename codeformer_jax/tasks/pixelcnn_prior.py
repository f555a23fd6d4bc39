"""A gated PixelCNN learns the maps of codes of a frozen autoencoder, or pixels themselves."""

import math

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Int, Key, UInt8

from codeformer_jax.metrics import psnr
from codeformer_jax.metrics.likelihood import bits_per_dim, count_values, site_bits_per_dim
from codeformer_jax.nn import VQGAN, VQVAE, PixelCNN
from codeformer_jax.nn.quantizer import count_codes
from codeformer_jax.sampling.pixelcnn import sample
from codeformer_jax.tasks import accumulate, common
from codeformer_jax.tasks.state import PyTree, TrainState, make_optimizer

AUTOENCODERS = {"vqgan": VQGAN, "vqvae": VQVAE}
PIXELS = "pixels"
Labels = Int[Array, "b"]
# Of the codebook only; a prior has none.
_NO_METRICS = ("perplexity", "dead_codes")


@flax.struct.dataclass
class Phase:
    """All steps are alike."""


class PixelCNNPriorTask:
    """loss = -log p(map | label), nats per value (VQ-VAE, section 3.3; Gated PixelCNN, section 2).

    `config`: prior_of ('vqvae', 'vqgan': the codes of such a teacher with the fields in model; or
    'pixels': 256 levels of R, G, B), pixelcnn, optimizer, ema_decay, ema_warmup, steps,
    eval.samples.

    Evaluation reports, for held-out maps, bits per value under the network (`bits_per_dim`), under
    the uniform distribution and under every place's own frequencies in training
    (`bits_per_dim_sites`); for codes also the network's bits per value of the picture
    (`image_bits_per_dim`) and how well the teacher reconstructs it.
    """

    network = "pixelcnn"

    def __init__(self, config: ml_collections.ConfigDict):
        self.config = config
        kind = config.prior_of
        if kind not in (*AUTOENCODERS, PIXELS):
            names = ", ".join((*AUTOENCODERS, PIXELS))
            raise ValueError(f"prior_of is {kind!r}; expected one of {names}")
        self.needs_teacher = kind != PIXELS
        size = config.data.image_size
        if self.needs_teacher:
            fields = {**common.network_fields(config.model), "ema_decay": None}
            self.teacher = AUTOENCODERS[kind](**fields)
            if size % self.teacher.downsampling:
                raise ValueError(
                    f"data.image_size={size} does not divide into codes of "
                    f"{self.teacher.downsampling} px; change it"
                )
            values = {"levels": self.teacher.codebook_size}
            values["map_size"] = size // self.teacher.downsampling
        else:
            values = {"map_size": size, "channels": 3, "levels": 256, "ordinal": True}
        self.module = PixelCNN(**common.network_fields(config.pixelcnn), **values)
        self.needs_labels = self.module.classes > 0
        self.optimizer = make_optimizer(config.optimizer, config.steps)
        self.slices = accumulate.slices_of(config)

    def init(
        self, key: Key[Array, ""], images: UInt8[Array, "b h w 3"], previous: PyTree | None
    ) -> TrainState:
        """A random network, or the PixelCNN `previous`; an autoencoder is the teacher alone.

        Raises:
            ValueError: where the shapes of `previous` are not those of the config.
        """
        module = self.module
        values = jnp.zeros((1, module.map_size, module.map_size, module.channels), jnp.int32)
        labels = jnp.zeros(1, jnp.int32) if self.needs_labels else None
        params = module.init(key, values, labels)["params"]
        if previous is not None and "encoder" not in previous["params"]:
            params = common.transplant(params, previous["params"], params)
        size = module.levels
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            ema_params=jax.tree.map(jnp.copy, params),
            opt_state=self.optimizer.init(params),
            collections={},
            code_usage=jnp.full(size, 1 / size, jnp.float32),
            skipped=jnp.zeros((), jnp.int32),
            skipped_in_row=jnp.zeros((), jnp.int32),
            site_counts=jnp.zeros((*values.shape[1:], size), jnp.float32),
        )

    def phase(self, step: int) -> Phase:
        return Phase()

    def values(
        self, frozen: dict[str, PyTree], images: common.Images, codes: common.Codes | None = None
    ) -> Int[Array, "b h2 w2 c"]:
        """Maps of the images: `codes` where they are known, the teacher's, or levels 0..255."""
        if not self.needs_teacher:
            if jnp.issubdtype(images.dtype, jnp.floating):
                images = jnp.round((images + 1) * 127.5)
            return images.astype(jnp.int32)
        real = common.from_uint8(images)
        if codes is None:
            codes = self.teacher.apply(frozen["teacher"], real, method="encode").indices
        sides = (side // self.teacher.downsampling for side in real.shape[1:3])
        return jax.lax.stop_gradient(codes.reshape(real.shape[0], *sides, 1))

    def train_step(
        self,
        state: TrainState,
        frozen: dict[str, PyTree],
        images: common.Images,
        key: Key[Array, ""],
        phase: Phase,
        codes: common.Codes | None = None,
        labels: Labels | None = None,
    ) -> tuple[TrainState, common.Metrics]:
        given = {"images": images, "codes": codes, "labels": labels}
        inputs = {name: array for name, array in given.items() if array is not None}
        measured = accumulate.measure(
            lambda part: self._measure(state, frozen, part), inputs, self.slices
        )
        values, means = measured.images["values"], measured.means
        # Outside `advance`: which maps were seen does not depend on the optimizer.
        state = state.replace(site_counts=count_values(state.site_counts, values))
        state, metrics = common.advance(
            self.config,
            self.optimizer,
            state,
            means["gradients"],
            count_codes(values, self.module.levels),
            means["metrics"],
        )
        return state, {name: x for name, x in metrics.items() if name not in _NO_METRICS}

    def _measure(
        self, state: TrainState, frozen: dict[str, PyTree], part: PyTree
    ) -> accumulate.Measured:
        """Gradients, loss and maps of a slice."""
        values = self.values(frozen, part["images"], part.get("codes"))

        def loss(params):
            logits = self.module.apply({"params": params}, values, part.get("labels"))
            bits = jnp.mean(bits_per_dim(logits, values))
            nats = bits * math.log(2)
            return nats, {"loss": nats, "bits_per_dim": bits}

        gradients, metrics = jax.grad(loss, has_aux=True)(state.params)
        return accumulate.Measured(
            means={"gradients": gradients, "metrics": metrics}, images={"values": values}
        )

    def eval_step(
        self,
        state: TrainState,
        frozen: dict[str, PyTree],
        images: UInt8[Array, "b h w 3"],
        keys: Key[Array, "b"],
        labels: Labels | None = None,
    ) -> common.Evaluated:
        values = self.values(frozen, images)
        real = common.from_uint8(images)
        bits = bits_per_dim(self.module.apply(state.variables(), values, labels), values)
        metrics = {
            "bits_per_dim": bits,
            "bits_per_dim_uniform": jnp.full_like(bits, math.log2(self.module.levels)),
            "bits_per_dim_sites": site_bits_per_dim(state.site_counts, values),
        }
        panels = {"truth": real}
        if self.needs_teacher:
            metrics["image_bits_per_dim"] = bits * (values[0].size / real[0].size)
            made = self.pictures(frozen, values)
            metrics["teacher_mse"] = jnp.mean(jnp.square(made - real), axis=(1, 2, 3))
            metrics["teacher_psnr"] = psnr(common.to_unit(made), common.to_unit(real))
            panels["reconstruction"] = made
        if self.config.eval.samples:
            drawn = sample(
                self.module,
                state.variables(),
                keys,
                height=values.shape[1],
                width=values.shape[2],
                labels=labels,
            )
            panels["sample"] = self.pictures(frozen, drawn)
        return common.Evaluated(
            metrics=metrics, panels=panels, indices=values.reshape(values.shape[0], -1)
        )

    def pictures(
        self, frozen: dict[str, PyTree], values: Int[Array, "b h w c"]
    ) -> Float[Array, "b h2 w2 3"]:
        """What maps show, in [-1, 1]: decoded by the teacher, or the pixels themselves."""
        if not self.needs_teacher:
            return common.from_uint8(values.astype(jnp.uint8))
        return self.teacher.apply(frozen["teacher"], values[..., 0], method="decode")

    def reconstruct(self, teacher: PyTree, images: UInt8[Array, "b h w 3"]) -> Float[Array, "b"]:
        """PSNR in dB of the teacher's reconstructions of images, one per image.

        Raises:
            ValueError: where the teacher is not the one that the config describes.
        """
        real = common.from_uint8(images)
        expected = jax.eval_shape(self.teacher.init, jax.random.key(0), real[:1])["params"]
        common.transplant(expected, teacher["params"], expected.keys() | teacher["params"].keys())
        output = self.teacher.apply(teacher, real)
        return psnr(common.to_unit(output.image), common.to_unit(real))
