"""Stage III: fusion blocks learn to carry detail of the input at a fidelity weight w."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from codeformer_jax.degrade import Recipe
from codeformer_jax.tasks import accumulate, common, groups
from codeformer_jax.tasks.code_task import CODE_PATH, CodeTask
from codeformer_jax.tasks.image_losses import make_image_losses
from codeformer_jax.tasks.protocol import TASKS
from codeformer_jax.tasks.state import PyTree, TrainState

FUSION = ("fuse_convs_dict_",)
_HEADS = ("scale", "shift")
# Stream of a step's key, apart from those of a batch's images.
_CODES = 2**31 - 1


@flax.struct.dataclass
class Phase:
    """Schedule of a step.

    Attributes:
        w: fidelity weight, a float or a scalar array.
        recipe: ranges that degradations are drawn from.
        image_losses: whether there are image losses besides the code losses.
        gan: whether the discriminator trains and the generator's loss includes it.
        code_recipe: ranges of a second degradation of the same images, for the code losses; None
            degrades the images once.
        fused_steps: number of earlier steps of the schedule that train the fusion blocks, an int or
            a scalar array.
    """

    w: Any
    recipe: Recipe
    image_losses: bool = flax.struct.field(pytree_node=False)
    gan: bool = flax.struct.field(pytree_node=False)
    code_recipe: Recipe | None = None
    fused_steps: Any = 0


@dataclass(frozen=True)
class Row:
    """A row of the stage III schedule. The first row that takes a step describes it.

    Attributes:
        until: the row takes steps before this one, counted from 0.
        w: fidelity weight. 0 excludes image losses: the adaptive weight needs the gradient of a
            fusion layer, which such a step does not have.
        recipe: name of the degradation.
        image_losses: whether there are image losses besides the code losses.
        every: with n > 0 the row takes only each n-th step: n, 2n, ... counted from 1.
        code_recipe: name of a second degradation of the same images, which the code losses see in
            place of `recipe`.
    """

    until: int
    w: float
    recipe: str
    image_losses: bool
    every: int = 0
    code_recipe: str | None = None

    def __post_init__(self):
        if self.image_losses and not self.w > 0:
            raise ValueError(
                f"schedule row {self}: image losses train the fusion blocks, which w = 0 excludes; "
                "use w > 0 or image_losses=False"
            )
        if self.code_recipe is not None and not self.image_losses:
            raise ValueError(
                f"schedule row {self}: without image losses there are only code losses; name "
                "their degradation in 'recipe'"
            )

    def takes(self, step: int) -> bool:
        """Returns whether the row takes a step, counted from 0."""
        return step < self.until and (not self.every or (step + 1) % self.every == 0)


def _read_row(given: Mapping[str, Any]) -> Row:
    try:
        return Row(**given)
    except TypeError as error:  # A missing or an unknown name.
        known = ", ".join(field.name for field in fields(Row))
        raise ValueError(f"schedule row {dict(given)}: {error}; a row has {known}") from error


@TASKS.register("restoration")
class RestorationTask(CodeTask):
    """loss = code losses + L1 + perceptual + gan_weight * lambda * hinge (section 3.3).

    Image losses reach only the fusion blocks. Code losses train encoder and transformer.
    `optimizer.advance` decides what a step without image losses does to the fusion blocks.

    Reads model, codeformer, discriminator, loss, optimizer, degradation, schedule, ema_decay and
    steps of the config.
    """

    trained = (*CODE_PATH, *FUSION)
    eval_weights = (0.0, 1.0)

    def __init__(self, config: ml_collections.ConfigDict):
        super().__init__(config)
        self.image_losses = make_image_losses(config, self.module.dtype, self._last_kernel, FUSION)
        self.lpips = self.image_losses.needed_lpips
        groups.check(config)
        self.schedule = [_read_row(row) for row in config.schedule]
        if not self.module.connect_list:
            raise ValueError("stage III trains fusion blocks: codeformer.connect_list is empty")
        for row in self.schedule:
            if not {row.recipe, row.code_recipe or row.recipe} <= self.recipes.keys():
                raise ValueError(f"{row}: unknown recipe; config.degradation has {[*self.recipes]}")
        ends = [row.until for row in self.schedule if not row.every]
        if max(ends, default=0) < config.steps:
            raise ValueError(f"the schedule ends before config.steps = {config.steps}")
        fused = np.zeros(config.steps, bool)
        for row in reversed(self.schedule):  # The first row that takes a step decides.
            every = row.every or 1
            fused[every - 1 : row.until : every] = row.image_losses
        self._fused_steps = [0, *np.cumsum(fused).tolist()]

    def init(
        self, key: Key[Array, ""], images: UInt8[Array, "b h w 3"], previous: PyTree | None
    ) -> TrainState:
        """Returns the first state, with a random discriminator; see `CodeTask.init`.

        Args:
            key: key of the random parameters.
            images: the first batch.
            previous: variables of a CodeFormer, or None. Fusion blocks that it lacks start as
                `codeformer.fusion_zero_init` says.

        Raises:
            ValueError: `previous` is a stage-I VQGAN, or its shapes differ from the config's.
        """
        if previous is not None and "feat_emb" not in previous["params"]:
            raise ValueError(
                "stage III starts from a CodeFormer, but init_from holds a VQGAN without a "
                "transformer: train stage II (code_prediction) first"
            )
        key, discriminator_key = jax.random.split(key)
        state = super().init(key, images, previous)
        discriminator = common.init_discriminator(
            self.image_losses.discriminator,
            self.optimizer,
            discriminator_key,
            common.from_uint8(images),
        )
        return state.replace(discriminator=discriminator)

    def start_from(self, previous: PyTree, origin: ml_collections.ConfigDict | None) -> PyTree:
        """Returns the variables `previous` without untrained fusion blocks.

        `init` makes new ones, by `codeformer.fusion_zero_init` of this run. Stage II keeps blocks
        that it does not train. They are zero in the last kernels of scale and shift, or random.

        Args:
            previous: variables that the run starts from.
            origin: config of the run that trained them, or None for a model file.
        """
        blocks = common.select(previous["params"], FUSION)
        if not blocks:
            return previous
        last = [block[f"{head}_2"]["kernel"] for block in blocks.values() for head in _HEADS]
        reason = None
        if not any(np.any(kernel) for kernel in last):
            reason = "their scale and shift are zero"
        elif (
            origin is not None
            and origin.task == "code_prediction"
            and self.module.fusion_zero_init
            and not origin.codeformer.get("fusion_zero_init", True)
        ):
            reason = "stage II left them at its random start"
        if reason is None:
            logging.info("the fusion blocks of init_from are kept")
            return previous
        logging.info(
            "fusion blocks start %s (codeformer.fusion_zero_init=%s), because those of init_from "
            "are untrained: %s",
            "at zero" if self.module.fusion_zero_init else "at random",
            self.module.fusion_zero_init,
            reason,
        )
        params = {k: v for k, v in previous["params"].items() if k not in blocks}
        return {**previous, "params": params}

    def phase(self, step: int) -> Phase:
        row = self._row(step)
        gan = row.image_losses and step >= self.config.loss.gan_start
        return Phase(
            w=row.w,
            recipe=self.recipes[row.recipe],
            image_losses=row.image_losses,
            gan=gan and self.config.loss.gan_weight > 0,
            code_recipe=self.recipes[row.code_recipe] if row.code_recipe else None,
            fused_steps=self._fused_steps[min(step, self.config.steps)],
        )

    def _row(self, step: int) -> Row:
        return next(row for row in self.schedule if row.takes(step))

    def keys(self, key: Key[Array, ""], batch: int, phase: Phase) -> dict[str, Key[Array, "b"]]:
        """Returns 'keys' of the images' degradations, and 'code_keys' of their second ones.

        Args:
            key: the step's key.
            batch: number of images.
            phase: the step's phase; without `code_recipe` there are no 'code_keys'.
        """
        keys = {"keys": jax.random.split(key, batch)}
        if phase.code_recipe is not None:
            keys["code_keys"] = jax.random.split(jax.random.fold_in(key, _CODES), batch)
        return keys

    def inputs(
        self,
        real: Float[Array, "b h w 3"],
        keys: dict[str, PyTree],
        phase: Phase,
    ) -> tuple[Float[Array, "b h w 3"], Float[Array, "b h w 3"] | None]:
        """Returns degraded images, and with `phase.code_recipe` a second, independent degradation.

        Args:
            real: clean images in [-1, 1].
            keys: from `keys`.
            phase: the step's phase.
        """
        degraded = self.degrade(real, keys["keys"], phase.recipe)
        if phase.code_recipe is None:
            return degraded, None
        return degraded, self.degrade(real, keys["code_keys"], phase.code_recipe)

    def train_step(
        self,
        state: TrainState,
        frozen: dict[str, PyTree],
        images: common.Images,
        key: Key[Array, ""],
        phase: Phase,
        codes: common.Codes | None = None,
    ) -> tuple[TrainState, common.Metrics]:
        inputs = {"images": images, **self.keys(key, images.shape[0], phase)}
        if codes is not None:
            inputs["codes"] = codes
        measured = accumulate.measure(
            lambda part: self._measure(state, frozen, part, phase), inputs, self.slices
        )
        gradients, metrics = self.image_losses.weighted(measured.means)
        metrics["loss"] = metrics.pop("code_loss") + metrics.pop("image_loss")
        return self.advance(
            state,
            gradients,
            metrics,
            codes=measured.images["indices"],
            discriminator=measured.means.get("discriminator"),
            late=(
                tuple(common.select(gradients, FUSION)),
                jnp.asarray(phase.fused_steps, jnp.int32),
            ),
        )

    def _measure(
        self, state: TrainState, frozen: dict[str, PyTree], part: PyTree, phase: Phase
    ) -> accumulate.Measured:
        """Returns gradients, losses and codes of a slice: `images`, keys and perhaps `codes`."""
        real = common.from_uint8(part["images"])
        degraded, coded = self.inputs(real, part, phase)
        targets = self.targets(frozen, real, part.get("codes"))

        def forward(trained):
            variables = {"params": {**state.params, **trained}}
            prediction = self.module.apply(variables, degraded, method="predict")
            predicted = prediction
            if coded is not None:
                predicted = self.module.apply(variables, coded, method="predict")
            code_loss, metrics = self.code_loss(predicted, targets)
            fused = jnp.zeros(())  # Without image losses the generator is not computed.
            if phase.image_losses:
                fused = self.module.apply(
                    variables, prediction, prediction.indices, w=phase.w, method="fuse"
                )
            return (fused, code_loss), (predicted.indices, metrics | {"code_loss": code_loss})

        def finish(fused):
            # Nothing after the last fusion is trained.
            return self.module.apply({"params": state.params}, fused, method="finish")

        trained = common.select(state.params, self.trained if phase.image_losses else CODE_PATH)
        (fused, _), pullback, (indices, code_metrics) = jax.vjp(forward, trained, has_aux=True)
        if phase.image_losses:
            fake, pull_to_fused = jax.vjp(finish, fused)
            means = self.image_losses.measure(
                fake,
                real,
                frozen,
                state.discriminator if phase.gan else None,
                lambda features, loss: pullback((features, jnp.float32(loss)))[0],
                pull_to_trained=lambda image: pull_to_fused(image)[0],
                whole=self.slices == 1,
            )
        else:
            (gradients,) = pullback((jnp.zeros_like(fused), jnp.ones(())))
            means = {"gradients": gradients, "metrics": {"image_loss": jnp.zeros(())}}
        means["metrics"] |= code_metrics
        return accumulate.Measured(means=means, images={"indices": indices})

    def _last_kernel(self, gradients: PyTree) -> Float[Array, "3 3 c c"]:
        """Returns the gradient of the last kernel of the largest fusion block's shift."""
        largest = max(self.module.connect_list)
        return gradients[f"fuse_convs_dict_{largest}"]["shift_2"]["kernel"]
