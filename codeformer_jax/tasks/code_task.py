"""Base of stages II and III: degraded inputs, codes of a frozen teacher, code losses."""

import logging
import math

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Int, Key, UInt8

from codeformer_jax import losses
from codeformer_jax.degrade import Recipe, degrade
from codeformer_jax.metrics import psnr
from codeformer_jax.nn import (
    VQGAN,
    CodeFormer,
    CodeFormerOutput,
    CodePrediction,
    resize_positions,
)
from codeformer_jax.tasks import common
from codeformer_jax.tasks.protocol import BestScore, Evaluated, Task
from codeformer_jax.tasks.state import PyTree, TrainState

CODE_PATH = ("encoder", "position_emb", "feat_emb", "ft_layers_", "idx_pred_layer_")
FROZEN_PATH = ("quantize", "generator")


@flax.struct.dataclass
class Targets:
    """Codes of clean images, row-major, and their codebook rows."""

    indices: Int[Array, "b n"]
    latents: Float[Array, "b h w d"]


class CodeTask(Task):
    """Base of the tasks that train a CodeFormer on the codes of a frozen stage-I VQGAN.

    `frozen['teacher']` holds that VQGAN's variables. The CodeFormer has the same codebook and
    generator, which are not trained.

    Attributes:
        trained: prefixes of the trained parameters.
        eval_weights: fidelity weights of the evaluation; 'psnr' is that of the last one.
        recipes: degradations by their name in `config.degradation`.
    """

    best_score = BestScore("psnr")
    trained: tuple[str, ...] = CODE_PATH
    eval_weights: tuple[float, ...] = (0.0,)

    def __init__(self, config: ml_collections.ConfigDict):
        super().__init__(config)
        backbone = common.network_fields(config.model)
        # Here the codebook is a parameter, even if stage I trained it as a moving average.
        backbone = {**backbone, "ema_decay": None}
        self.teacher = VQGAN(**backbone)
        codeformer = common.network_fields(config.codeformer)
        self.module = CodeFormer(**backbone, **codeformer, stop_gradients=True)
        self.codebook_size = self.module.codebook_size
        self.recipes = {name: common.read_recipe(config, name) for name in config.degradation}
        if config.eval.recipe not in self.recipes:
            raise ValueError(
                f"eval.recipe={config.eval.recipe!r} is not a recipe; config.degradation has "
                f"{[*self.recipes]}"
            )

    def init(
        self, key: Key[Array, ""], images: UInt8[Array, "b h w 3"], previous: PyTree | None
    ) -> TrainState:
        """Returns the first state of a CodeFormer.

        Args:
            key: key of the random parameters.
            images: the first batch.
            previous: variables of a VQGAN or a CodeFormer, or None. Parts that it lacks start at
                random. Positions of a CodeFormer of another image size are interpolated.

        Raises:
            ValueError: the shapes of `previous` differ from the config's.
        """
        real = common.from_uint8(images)[:1]
        params = dict(self.module.init(key, real, w=0.0)["params"])
        if previous is not None:
            source = _at_size(common.plain_codebook(previous), self.module)
            wanted = {"encoder", *FROZEN_PATH, *(name for name in params if name in source)}
            if "feat_emb" in source:  # A CodeFormer, where only fusion blocks may be missing.
                paths = [*common.select(params, CODE_PATH), *common.select(source, CODE_PATH)]
                wanted |= set(paths)
            params = common.transplant(params, source, wanted)
        trained = common.select(params, self.trained)
        return TrainState.first(params, trained, self.optimizer, self.codebook_size)

    @property
    def trained_module(self) -> CodeFormer:
        """The network with gradients everywhere; where they stop is a choice of training."""
        return self.module.clone(stop_gradients=False)

    def degrade(
        self, real: Float[Array, "b h w 3"], keys: Key[Array, "b"], recipe: Recipe
    ) -> Float[Array, "b h w 3"]:
        """Returns degraded images in [-1, 1].

        Args:
            real: clean images in [-1, 1].
            keys: one per image.
            recipe: ranges to draw from.
        """
        return degrade((real + 1) / 2, keys, recipe) * 2 - 1

    def targets(
        self,
        frozen: dict[str, PyTree],
        real: Float[Array, "b h w 3"],
        codes: common.Codes | None = None,
    ) -> Targets:
        """Returns the teacher's codes of clean images.

        Args:
            frozen: variables, with 'teacher'.
            real: clean images in [-1, 1].
            codes: the codes if they are known, which spares the teacher's forward.
        """
        if codes is None:
            codes = self.teacher.apply(frozen["teacher"], real, method="encode").indices
        codebook = frozen["teacher"]["params"]["quantize"]["embedding"]
        grid = (side // self.teacher.downsampling for side in real.shape[1:3])
        latents = codebook[codes].reshape(real.shape[0], *grid, -1)
        return jax.lax.stop_gradient(Targets(indices=codes, latents=latents))

    def code_loss(
        self, output: CodeFormerOutput | CodePrediction, targets: Targets
    ) -> tuple[Float[Array, ""], common.Metrics]:
        """Returns the code losses (eq. 5-6) and their metrics.

        loss = feature_weight * MSE(latents, e_target) + cross_entropy_weight * CE
        """
        feature = losses.mse(output.latents, targets.latents)
        entropy = losses.cross_entropy(output.logits, targets.indices)
        weights = self.config.loss
        total = weights.feature_weight * feature + weights.cross_entropy_weight * entropy
        accuracy = jnp.mean(output.indices == targets.indices)
        return total, {"feature": feature, "cross_entropy": entropy, "accuracy": accuracy}

    def eval_step(
        self,
        state: TrainState,
        frozen: dict[str, PyTree],
        images: UInt8[Array, "b h w 3"],
        keys: Key[Array, "b"],
    ) -> Evaluated:
        real = common.from_uint8(images)
        degraded = self.degrade(real, keys, self.recipes[self.config.eval.recipe])
        targets = self.targets(frozen, real)
        panels, metrics = {"degraded": degraded, "truth": real}, {}
        metrics["psnr_degraded"] = psnr(common.to_unit(degraded), common.to_unit(real))
        adain = bool(self.config.eval.get("adain", True))
        for w in self.eval_weights:
            output = self.module.apply(state.variables(), degraded, w=w, adain=adain)
            panels[f"restored, w = {w:g}"] = output.image
            metrics[f"psnr_w{w:g}"] = psnr(common.to_unit(output.image), common.to_unit(real))
        metrics["accuracy"] = jnp.mean(output.indices == targets.indices, axis=1)
        metrics["psnr"] = metrics[f"psnr_w{self.eval_weights[-1]:g}"]
        return Evaluated(metrics=metrics, panels=panels, indices=output.indices)


def _at_size(source: PyTree, module: CodeFormer) -> PyTree:
    """Adapts a CodeFormer's positions and names of fusion blocks to `module`'s image size."""
    tokens = source["position_emb"].shape[0] if "position_emb" in source else 0
    old, new = math.isqrt(tokens), module.image_size // module.downsampling
    if old in (0, new) or old**2 != tokens:
        return source
    logging.warning(
        "init_from: its position embeddings, of a %dx%d map (image_size=%d), are interpolated to "
        "%dx%d for model.image_size=%d",
        *(old, old, old * module.downsampling, new, new, module.image_size),
    )
    resized = {"position_emb": resize_positions(source["position_emb"], (new, new))}
    prefix = "fuse_convs_dict_"
    for name, value in source.items():
        if name.startswith(prefix):  # The name ends with the side of the block's map.
            side = int(name.removeprefix(prefix)) * new // old
            resized[f"{prefix}{side}"] = value
        elif name not in resized:
            resized[name] = value
    return resized
