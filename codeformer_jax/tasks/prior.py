"""Base of the priors, which learn the distribution of a frozen autoencoder's code maps."""

import abc
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Int, Key, UInt8

from codeformer_jax.convert.networks import NETWORKS, networks_of_role
from codeformer_jax.degrade import Recipe
from codeformer_jax.metrics import bits_per_dim, count_values, psnr, site_bits_per_dim
from codeformer_jax.ops.devices import on_all_devices
from codeformer_jax.tasks import accumulate, common
from codeformer_jax.tasks.common import Labels
from codeformer_jax.tasks.protocol import BestScore, Evaluated, Task
from codeformer_jax.tasks.state import PyTree, TrainState

Values = Int[Array, "b h2 w2 c"]
# Metrics of a codebook in training, which a prior does not have.
_NO_METRICS = ("perplexity", "dead_codes")


@flax.struct.dataclass
class Phase:
    """Schedule of a step.

    Attributes:
        recipe: degradation of the images that are the condition, or None.
    """

    recipe: Recipe | None = None


@flax.struct.dataclass
class PriorState(TrainState):
    """State of a prior.

    Attributes:
        site_counts: number of times each value stood at each site in training, [h, w, c, K].
    """

    site_counts: Any = None


class PriorTask(Task, abc.ABC):
    """loss = -log p(map | condition) in nats per value of the map.

    Reads prior_of (an autoencoder with the fields in model), optimizer, ema_decay, ema_warmup,
    steps and eval.samples of the config.

    A subclass sets `module` and `codebook_size`, the number of values, and defines `_init_params`,
    `logits` and `draw`.

    Evaluation reports bits per value of held-out maps: under the network (`bits_per_dim`), under
    the uniform distribution (`bits_per_dim_uniform`), and under each site's own frequencies in
    training (`bits_per_dim_sites`). For codes it also reports the network's bits per value of the
    picture (`image_bits_per_dim`) and the quality of the teacher's reconstruction.

    Attributes:
        other_kinds: the values of `prior_of` that are no autoencoder.
        recipe: degradation of the condition, or None.
    """

    best_score = BestScore("bits_per_dim", smallest=True)
    other_kinds: tuple[str, ...] = ()
    recipe: Recipe | None = None

    def __init__(self, config: ml_collections.ConfigDict):
        super().__init__(config)
        autoencoders = networks_of_role("autoencoder")
        if config.prior_of not in (*autoencoders, *self.other_kinds):
            known = ", ".join((*autoencoders, *self.other_kinds))
            raise ValueError(f"prior_of={config.prior_of!r} is unknown; expected one of {known}")
        side = config.data.image_size
        self.map_shape = (side, side, 3)
        if config.prior_of in autoencoders:
            fields = common.network_fields(config.model)
            if "ema_decay" in fields:  # Here the codebook is a parameter.
                fields["ema_decay"] = None
            self.teacher = NETWORKS[config.prior_of].module(**fields)
            factor = self.teacher.downsampling
            if side % factor:
                raise ValueError(
                    f"data.image_size={side} does not divide into codes of {factor} px; change it"
                )
            self.map_shape = (side // factor, side // factor, 1)

    @abc.abstractmethod
    def _init_params(self, key: Key[Array, ""]) -> PyTree:
        """Returns random parameters."""

    @abc.abstractmethod
    def logits(
        self,
        params: PyTree,
        frozen: dict[str, PyTree],
        values: Values,
        inputs: PyTree,
        recipe: Recipe | None,
        *,
        train: bool,
    ) -> Float[Array, "b h2 w2 c k"]:
        """Returns the logits of every value of maps, given the values before it.

        Args:
            params: parameters of the prior.
            frozen: variables, with 'teacher' for codes.
            values: the maps.
            inputs: 'images', a key per image in 'keys', and 'labels' in a task with classes.
            recipe: degradation of the condition.
            train: whether the network has noise.
        """

    @abc.abstractmethod
    def draw(self, variables: PyTree, frozen: dict[str, PyTree], inputs: PyTree) -> Values:
        """Samples a map for every image of `inputs`, of which only the condition is used."""

    def init(
        self, key: Key[Array, ""], images: UInt8[Array, "b h w 3"], previous: PyTree | None
    ) -> PriorState:
        """Returns the first state: a random network, or the prior `previous`.

        An autoencoder in `previous` is the teacher only.

        Raises:
            ValueError: the shapes of `previous` differ from the config's.
        """
        del images
        params = dict(self._init_params(key))
        if previous is not None and "quantize" not in common.plain_codebook(previous):
            source = dict(previous["params"])
            params = common.transplant(params, source, {*params, *source})
        counts = jnp.zeros((*self.map_shape, self.codebook_size), jnp.float32)
        return PriorState.first(
            params, params, self.optimizer, self.codebook_size, site_counts=counts
        )

    def phase(self, step: int) -> Phase:
        return Phase(self.recipe)

    def values(
        self, frozen: dict[str, PyTree], images: common.Images, codes: common.Codes | None = None
    ) -> Values:
        """Returns the maps of images.

        Args:
            frozen: variables, with 'teacher' for codes.
            images: clean images.
            codes: the teacher's codes if they are known.

        Returns:
            Codes [b, h2, w2, 1], or pixel levels 0..255 in a prior of pixels.
        """
        if not self.needs_teacher:
            if jnp.issubdtype(images.dtype, jnp.floating):
                images = jnp.round((images + 1) * 127.5)
            return images.astype(jnp.int32)
        if codes is None:
            real = common.from_uint8(images)
            codes = self.teacher.apply(frozen["teacher"], real, method="encode").indices
        return jax.lax.stop_gradient(codes.reshape(images.shape[0], *self.map_shape))

    def train_step(
        self,
        state: PriorState,
        frozen: dict[str, PyTree],
        images: common.Images,
        key: Key[Array, ""],
        phase: Phase,
        codes: common.Codes | None = None,
        labels: Labels | None = None,
    ) -> tuple[PriorState, common.Metrics]:
        given = {"images": images, "codes": codes, "labels": labels}
        inputs = {name: array for name, array in given.items() if array is not None}
        inputs["keys"] = jax.random.split(key, images.shape[0])
        measured = accumulate.measure(
            lambda part: self._measure(state, frozen, part, phase), inputs, self.slices
        )
        values, means = measured.images["values"], measured.means
        state, metrics = self.advance(
            state,
            means["gradients"],
            means["metrics"],
            codes=values,
            finish=lambda before, after: after.replace(
                site_counts=on_all_devices(count_values(on_all_devices(before.site_counts), values))
            ),
        )
        return state, {name: x for name, x in metrics.items() if name not in _NO_METRICS}

    def _measure(
        self, state: PriorState, frozen: dict[str, PyTree], part: PyTree, phase: Phase
    ) -> accumulate.Measured:
        """Returns gradients, loss and maps of a slice."""
        values = self.values(frozen, part["images"], part.get("codes"))

        def loss(params):
            logits = self.logits(params, frozen, values, part, phase.recipe, train=True)
            bits = jnp.mean(bits_per_dim(logits, values))
            accuracy = jnp.mean(_likeliest(logits) == values)
            nats = bits * math.log(2)
            return nats, {"loss": nats, "bits_per_dim": bits, "accuracy": accuracy}

        gradients, metrics = jax.grad(loss, has_aux=True)(state.params)
        return accumulate.Measured(
            means={"gradients": gradients, "metrics": metrics}, images={"values": values}
        )

    def eval_step(
        self,
        state: PriorState,
        frozen: dict[str, PyTree],
        images: UInt8[Array, "b h w 3"],
        keys: Key[Array, "b"],
        labels: Labels | None = None,
    ) -> Evaluated:
        real, values = common.from_uint8(images), self.values(frozen, images)
        inputs = {"images": images, "keys": keys, "labels": labels}
        variables = state.variables()
        logits = self.logits(variables["params"], frozen, values, inputs, self.recipe, train=False)
        bits = bits_per_dim(logits, values)
        metrics = {
            "bits_per_dim": bits,
            "bits_per_dim_uniform": jnp.full_like(bits, math.log2(self.codebook_size)),
            "bits_per_dim_sites": site_bits_per_dim(state.site_counts, values),
            "accuracy": jnp.mean(_likeliest(logits) == values, axis=(1, 2, 3)),
        }
        panels = {"truth": real}
        if self.needs_teacher:
            metrics["image_bits_per_dim"] = bits * (values[0].size / real[0].size)
            made = self.pictures(frozen, values)
            metrics["teacher_mse"] = jnp.mean(jnp.square(made - real), axis=(1, 2, 3))
            metrics["teacher_psnr"] = psnr(common.to_unit(made), common.to_unit(real))
            panels["reconstruction"] = made
        return Evaluated(
            metrics=metrics, panels=panels, indices=values.reshape(values.shape[0], -1)
        )

    def sample_step(
        self,
        state: PriorState,
        frozen: dict[str, PyTree],
        images: UInt8[Array, "b h w 3"],
        keys: Key[Array, "b"],
        labels: Labels | None = None,
    ) -> dict[str, Float[Array, "b h w 3"]]:
        """Returns a panel of sampled pictures; the images only give the condition."""
        inputs = {"images": images, "keys": keys, "labels": labels}
        return {"sample": self.pictures(frozen, self.draw(state.variables(), frozen, inputs))}

    def pictures(self, frozen: dict[str, PyTree], values: Values) -> Float[Array, "b h w 3"]:
        """Returns the pictures of maps in [-1, 1]: the teacher's decoding, or the pixels."""
        if not self.needs_teacher:
            return common.from_uint8(values.astype(jnp.uint8))
        return self.teacher.apply(frozen["teacher"], values[..., 0], method="decode")


def _likeliest(logits: Float[Array, "*s k"]) -> Int[Array, "*s"]:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
