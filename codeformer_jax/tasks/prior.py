"""A transformer prior learns the code maps of a frozen stage-I network (2012.09841, 3.2)."""

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Int, Key, UInt8

from codeformer_jax import losses
from codeformer_jax.degrade import Recipe, degrade
from codeformer_jax.metrics import count_sites, psnr, site_nll
from codeformer_jax.nn import GPT, VQGAN, TamingVQGAN
from codeformer_jax.nn.quantizer import count_codes
from codeformer_jax.tasks import accumulate, common
from codeformer_jax.tasks.state import PyTree, TrainState, make_optimizer

TEACHERS = {"vqgan": VQGAN, "taming_vqgan": TamingVQGAN}
# Streams of randomness, folded into an image's key.
_CORRUPT, _DROPOUT, _DEGRADE = range(3)


@flax.struct.dataclass
class Phase:
    """`recipe`: what the images of a condition are degraded by, or None."""

    recipe: Recipe | None


@flax.struct.dataclass
class PriorState(TrainState):
    """`site_counts`: how often each code stood at each site in training, [n, K]: a baseline."""

    site_counts: Any = None


def corrupt(
    codes: Int[Array, "b n"], keys: Key[Array, "b"], pkeep: float, codebook_size: int
) -> Int[Array, "b n"]:
    """Keeps each code with probability `pkeep`; others become uniform ones, by a key per row."""
    if pkeep == 1.0:
        return codes

    def row(codes, key):
        which, what = jax.random.split(key)
        kept = jax.random.bernoulli(which, pkeep, codes.shape)
        return jnp.where(kept, codes, jax.random.randint(what, codes.shape, 0, codebook_size))

    return jax.vmap(row)(codes, keys)


class PriorTask:
    """Negative log likelihood of code maps: cross entropy of the image's codes, no smoothing.

    `config`: model and teacher_network (the stage-I network, frozen), gpt (see `GPT`; its
    vocabulary and map are those of the stage-I network), loss.pkeep, optimizer, ema_decay, steps.
    With gpt.condition 'codes' the condition is the map of the same image degraded by
    degradation[condition_recipe].

    Raises:
        ValueError: for settings that do not fit together.
    """

    network = "taming_gpt"
    needs_teacher = True

    def __init__(self, config: ml_collections.ConfigDict):
        self.config = config
        if config.teacher_network not in TEACHERS:
            raise ValueError(
                f"teacher_network is {config.teacher_network!r}; expected one of "
                + ", ".join(TEACHERS)
            )
        fields = {**common.network_fields(config.model), "ema_decay": None}
        self.teacher = TEACHERS[config.teacher_network](**fields)
        self.module = _make_gpt(config, self.teacher)
        self.optimizer = make_optimizer(config.optimizer, config.steps)
        self.slices = accumulate.slices_of(config)
        self.needs_labels = self.module.condition == "class"
        self.recipe = None
        if self.module.condition == "codes":
            self.recipe = Recipe.from_config(config.degradation[config.condition_recipe])
        if not 0 < config.loss.pkeep <= 1:
            raise ValueError(
                f"loss.pkeep is {config.loss.pkeep}; expected the share of codes to keep, more "
                "than 0 and at most 1"
            )

    def init(
        self, key: Key[Array, ""], images: UInt8[Array, "b h w 3"], previous: PyTree | None
    ) -> PriorState:
        """A new transformer, or that of `previous`; a stage-I network there is the teacher's.

        Raises:
            ValueError: where the shapes of `previous` are not those of the config.
        """
        del images
        params = dict(self.module.init(key, jnp.zeros((1, 1), jnp.int32))["params"])
        if previous is not None and "tok_emb" in previous["params"]:
            source = dict(previous["params"])
            params = common.transplant(params, source, {*params, *source})
        size = self.module.vocab_size
        sites = self.module.map_size[0] * self.module.map_size[1]
        return PriorState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            ema_params=jax.tree.map(jnp.copy, params),
            opt_state=self.optimizer.init(params),
            collections={},
            code_usage=jnp.full(size, 1 / size, jnp.float32),
            skipped=jnp.zeros((), jnp.int32),
            skipped_in_row=jnp.zeros((), jnp.int32),
            site_counts=jnp.zeros((sites, size), jnp.float32),
        )

    def phase(self, step: int) -> Phase:
        return Phase(recipe=self.recipe)

    def train_step(
        self,
        state: PriorState,
        frozen: dict[str, PyTree],
        images: common.Images,
        key: Key[Array, ""],
        phase: Phase,
        codes: common.Codes | None = None,
        labels: Int[Array, "b"] | None = None,
    ) -> tuple[PriorState, common.Metrics]:
        inputs = {"images": images, "keys": jax.random.split(key, images.shape[0])}
        inputs |= {} if codes is None else {"codes": codes}
        inputs |= {} if labels is None else {"labels": labels}
        measured = accumulate.measure(
            lambda part: self._measure(state, frozen, part, phase), inputs, self.slices
        )
        codes = measured.images["codes"]
        counts = count_codes(codes, self.module.vocab_size)
        state, metrics = common.advance(
            self.config,
            self.optimizer,
            state,
            measured.means["gradients"],
            counts,
            measured.means["metrics"],
        )
        seen = count_sites(codes, self.module.vocab_size)
        return state.replace(site_counts=state.site_counts + seen), metrics

    def _measure(
        self, state: PriorState, frozen: dict[str, PyTree], part: PyTree, phase: Phase
    ) -> accumulate.Measured:
        """Gradients, losses and codes of a slice."""
        codes = part.get("codes")
        if codes is None:
            codes = self.encode(frozen, common.from_uint8(part["images"]))
        corrupting, dropping, degrading = (
            jax.vmap(lambda key, stream=stream: jax.random.fold_in(key, stream))(part["keys"])
            for stream in (_CORRUPT, _DROPOUT, _DEGRADE)
        )
        condition = self.condition(
            frozen, part["images"], degrading, phase.recipe, part.get("labels")
        )
        seen = corrupt(codes, corrupting, self.config.loss.pkeep, self.teacher.codebook_size)

        def loss(params):
            logits = self._logits(params, condition, seen, dropping)
            nll = losses.cross_entropy(logits, codes)
            accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == codes)
            return nll, self.bits(nll) | {"loss": nll, "nll": nll, "accuracy": accuracy}

        gradients, metrics = jax.grad(loss, has_aux=True)(state.params)
        return accumulate.Measured(
            means={"gradients": gradients, "metrics": metrics}, images={"codes": codes}
        )

    def _logits(
        self,
        params: PyTree,
        condition: Int[Array, "b m"],
        codes: Int[Array, "b n"],
        dropout_keys: Key[Array, "b"] | None = None,
    ) -> Float[Array, "b n k"]:
        """Logits of every code, given the condition and the codes before it."""
        tokens = jnp.concatenate([condition, codes], axis=1)[:, :-1]
        logits = self.module.apply({"params": params}, tokens, dropout_keys=dropout_keys)
        return logits[:, condition.shape[1] - 1 :]

    def encode(
        self, frozen: dict[str, PyTree], images: Float[Array, "b h w 3"]
    ) -> Int[Array, "b n"]:
        """The stage-I network's codes of images, row-major."""
        return self.teacher.apply(frozen["teacher"], images, method="encode").indices

    def condition(
        self,
        frozen: dict[str, PyTree],
        images: common.Images,
        keys: Key[Array, "b"],
        recipe: Recipe | None,
        labels: Int[Array, "b"] | None = None,
    ) -> Int[Array, "b m"]:
        """What comes before the codes: start token, class, or codes of the degraded images.

        Raises:
            ValueError: for a prior of classes and data without labels.
        """
        if self.module.condition == "start":
            return jnp.zeros((images.shape[0], 1), jnp.int32)
        if self.module.condition == "class":
            if labels is None:
                raise ValueError(
                    "gpt.condition='class' needs data whose examples have a 'label', and these "
                    "have none; set it to 'start', or take another data.path"
                )
            return labels[:, None].astype(jnp.int32)
        degraded = degrade((common.from_uint8(images) + 1) / 2, keys, recipe) * 2 - 1
        return self.encode(frozen, degraded)

    def bits(self, nll: Float[Array, "*b"]) -> dict[str, Float[Array, "*b"]]:
        """Of nats per code: bits per code, and per value of the image."""
        sites = self.module.map_size[0] * self.module.map_size[1]
        values = 3 * self.config.data.image_size**2
        bits = nll / math.log(2)
        return {"bits_per_dim": bits, "image_bits_per_dim": bits * (sites / values)}

    def eval_step(
        self,
        state: PriorState,
        frozen: dict[str, PyTree],
        images: UInt8[Array, "b h w 3"],
        keys: Key[Array, "b"],
        labels: Int[Array, "b"] | None = None,
    ) -> common.Evaluated:
        """Likelihood of held-out maps beside the uniform and the independent per-site baseline."""
        real = common.from_uint8(images)
        codes = self.encode(frozen, real)
        condition = self.condition(frozen, images, keys, self.recipe, labels)
        logits = self._logits(state.variables()["params"], condition, codes)
        nll = jax.vmap(lambda x, i: losses.cross_entropy(x[None], i[None]))(logits, codes)
        uniform = jnp.full(nll.shape, math.log(self.teacher.codebook_size), jnp.float32)
        metrics = {"nll": nll} | self.bits(nll)
        for name, baseline in (
            ("uniform", uniform),
            ("sites", site_nll(state.site_counts, codes)),
        ):
            metrics[f"bits_per_dim_{name}"] = baseline / math.log(2)
        likeliest = jnp.argmax(logits[:, :, : self.teacher.codebook_size], axis=-1)
        metrics["accuracy"] = jnp.mean(likeliest == codes, axis=1)

        def decode(indices):
            maps = indices.reshape(-1, *self.module.map_size)
            return self.teacher.apply(frozen["teacher"], maps, method="decode")

        panels = {
            "codes": decode(codes),
            "each code, given those before": decode(likeliest),
            "truth": real,
        }
        return common.Evaluated(metrics=metrics, panels=panels, indices=codes)

    def reconstruct(self, teacher: PyTree, images: UInt8[Array, "b h w 3"]) -> Float[Array, "b"]:
        """PSNR in dB of the teacher's reconstructions of clean images, one per image."""
        real = common.from_uint8(images)
        output = self.teacher.apply(teacher, real)
        return psnr(common.to_unit(output.image), common.to_unit(real))


def _make_gpt(config: ml_collections.ConfigDict, teacher: Any) -> GPT:
    """The transformer of `config.gpt` for the maps of `teacher`."""
    fields = common.network_fields(config.gpt)
    side, factor = config.data.image_size, teacher.downsampling
    if side % factor:
        raise ValueError(
            f"data.image_size={side} is not divisible by {factor}, the pixels per code of the "
            "stage-I network; change data.image_size"
        )
    sites = (side // factor) ** 2
    fields["condition_length"] = sites if fields["condition"] == "codes" else 1
    fields["map_size"] = (side // factor,) * 2
    fields["vocab_size"] = max(teacher.codebook_size, fields["classes"])
    if fields["block_size"] is None:
        fields["block_size"] = fields["condition_length"] + sites - 1
    return GPT(**fields)
