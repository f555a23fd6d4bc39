"""Stage II: encoder and transformer learn a clean image's codes from a degraded one (w = 0)."""

import flax.struct
import jax
from jaxtyping import Array, Key

from codeformer_jax.degrade import Recipe
from codeformer_jax.tasks import accumulate, common
from codeformer_jax.tasks.code_task import CodeTask
from codeformer_jax.tasks.protocol import TASKS
from codeformer_jax.tasks.state import PyTree, TrainState


@flax.struct.dataclass
class Phase:
    """Schedule of a step.

    Attributes:
        recipe: ranges that degradations are drawn from.
    """

    recipe: Recipe


@TASKS.register("code_prediction")
class CodePredictionTask(CodeTask):
    """loss = feature_weight * MSE(latents, e_target) + cross_entropy_weight * CE (eq. 5-6).

    Reads model, codeformer, loss, optimizer, degradation.large, ema_decay and steps of the config.
    """

    def phase(self, step: int) -> Phase:
        return Phase(recipe=self.recipes["large"])

    def train_step(
        self,
        state: TrainState,
        frozen: dict[str, PyTree],
        images: common.Images,
        key: Key[Array, ""],
        phase: Phase,
        codes: common.Codes | None = None,
    ) -> tuple[TrainState, common.Metrics]:
        inputs = {"images": images, "keys": jax.random.split(key, images.shape[0])}
        if codes is not None:
            inputs["codes"] = codes
        measured = accumulate.measure(
            lambda part: self._measure(state, frozen, part, phase), inputs, self.slices
        )
        return self.advance(
            state,
            measured.means["gradients"],
            measured.means["metrics"],
            codes=measured.images["indices"],
        )

    def _measure(
        self, state: TrainState, frozen: dict[str, PyTree], part: PyTree, phase: Phase
    ) -> accumulate.Measured:
        """Returns gradients, losses and codes of a slice: `images`, `keys` and perhaps `codes`."""
        real = common.from_uint8(part["images"])
        degraded = self.degrade(real, part["keys"], phase.recipe)
        targets = self.targets(frozen, real, part.get("codes"))

        def loss(trained):
            output = self.module.apply({"params": {**state.params, **trained}}, degraded, w=0.0)
            total, metrics = self.code_loss(output, targets)
            return total, (output.indices, metrics | {"loss": total})

        trained = common.select(state.params, self.trained)
        gradients, (indices, metrics) = jax.grad(loss, has_aux=True)(trained)
        return accumulate.Measured(
            means={"gradients": gradients, "metrics": metrics}, images={"indices": indices}
        )
