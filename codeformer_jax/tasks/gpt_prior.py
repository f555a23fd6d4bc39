"""Transformer prior of a frozen autoencoder's code maps (arXiv 2012.09841, section 3.2)."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Int, Key

from codeformer_jax.degrade import Recipe, degrade
from codeformer_jax.nn import GPT
from codeformer_jax.sampling import Sampler, sample_gpt
from codeformer_jax.system.keys import threefry_keys
from codeformer_jax.tasks import common, prior
from codeformer_jax.tasks.protocol import TASKS
from codeformer_jax.tasks.state import PyTree

# Random streams, folded into an image's key.
_CORRUPT, _DROPOUT, _DEGRADE, _DRAW = range(4)


def corrupt(
    codes: Int[Array, "b n"], keys: Key[Array, "b"], pkeep: float, codebook_size: int
) -> Int[Array, "b n"]:
    """Replaces codes by uniform ones.

    Args:
        codes: in [0, codebook_size).
        keys: one per row.
        pkeep: probability that a code is kept.
        codebook_size: number of codes.
    """
    if pkeep == 1.0:
        return codes

    def row(codes, key):
        which, what = jax.random.split(key)
        kept = jax.random.bernoulli(which, pkeep, codes.shape)
        return jnp.where(
            kept, codes, jax.random.randint(what, codes.shape, 0, codebook_size, codes.dtype)
        )

    return jax.vmap(row)(codes, keys)


@TASKS.register("gpt_prior")
class GPTPriorTask(prior.PriorTask):
    """Cross entropy of the codes, without smoothing.

    Also reads gpt (the fields of `GPT`; vocabulary and map follow the autoencoder) and loss.pkeep
    of the config. With gpt.condition 'codes' the condition is the code map of the same image,
    degraded by degradation[condition_recipe].
    """

    classes_setting = "--config.gpt.classes"
    without_classes = "--config.gpt.classes=0 --config.gpt.condition=start"

    def __init__(self, config: ml_collections.ConfigDict):
        super().__init__(config)
        self.codebook_size = self.teacher.codebook_size
        self.module = _make_gpt(config, self.map_shape[:2], self.codebook_size)
        self.classes = self.module.classes
        if self.module.condition == "codes":
            self.recipe = common.read_recipe(config, config.condition_recipe)

    def _init_params(self, key: Key[Array, ""]) -> PyTree:
        return self.module.init(key, jnp.zeros((1, 1), jnp.int32))["params"]

    def logits(
        self,
        params: PyTree,
        frozen: dict[str, PyTree],
        values: prior.Values,
        inputs: PyTree,
        recipe: Recipe | None,
        *,
        train: bool,
    ) -> Float[Array, "b h2 w2 c k"]:
        """Returns the logits of codes, not of condition tokens; see `PriorTask.logits`."""
        condition = self.condition(frozen, inputs, recipe)
        codes, dropping = values.reshape(values.shape[0], -1), None
        if train:
            dropping = common.weak_keys(self.config, _stream(inputs["keys"], _DROPOUT))
            corrupting = _stream(inputs["keys"], _CORRUPT)
            codes = corrupt(codes, corrupting, self.config.loss.pkeep, self.codebook_size)
        logits = self.module.apply(
            {"params": params}, condition, codes, dropout_keys=dropping, method="code_logits"
        )
        return logits[..., : self.codebook_size].reshape(*values.shape, self.codebook_size)

    def condition(
        self, frozen: dict[str, PyTree], inputs: PyTree, recipe: Recipe | None
    ) -> Int[Array, "b m"]:
        """Returns the tokens before the codes: start token, class, or codes of degraded images.

        Args:
            frozen: variables, with 'teacher'.
            inputs: 'images', 'keys' and, for classes, 'labels'.
            recipe: degradation of the images for `condition='codes'`.

        Raises:
            ValueError: a prior of classes has no labels.
        """
        images, labels = inputs["images"], inputs.get("labels")
        if self.module.condition == "start":
            return jnp.zeros((images.shape[0], 1), jnp.int32)
        if self.module.condition == "class":
            if labels is None:
                raise ValueError(
                    "gpt.condition='class' needs examples with a 'label', and these have none; set "
                    "it to 'start', or use another data.path"
                )
            return labels[:, None].astype(jnp.int32)
        keys = _stream(inputs["keys"], _DEGRADE)
        degraded = degrade((common.from_uint8(images) + 1) / 2, keys, recipe) * 2 - 1
        return self.values(frozen, degraded).reshape(images.shape[0], -1)

    def draw(self, variables: PyTree, frozen: dict[str, PyTree], inputs: PyTree) -> prior.Values:
        condition = self.condition(frozen, inputs, self.recipe)
        keys = _stream(inputs["keys"], _DRAW)
        sampler = Sampler(codebook_size=self.codebook_size)
        codes = sample_gpt(self.module, variables, keys, condition, sampler=sampler)
        return codes[..., None]


def _stream(keys: Key[Array, "b"], stream: int) -> Key[Array, "b"]:
    return jax.vmap(lambda key: jax.random.fold_in(key, stream))(threefry_keys(keys))


def _make_gpt(config: ml_collections.ConfigDict, map_size: tuple[int, int], codes: int) -> GPT:
    """Returns the transformer of `config.gpt` for maps of a size."""
    fields: dict[str, Any] = common.network_fields(config.gpt)
    sites = map_size[0] * map_size[1]
    fields["condition_length"] = sites if fields["condition"] == "codes" else 1
    fields["map_size"] = map_size
    fields["vocab_size"] = max(codes, fields["classes"])
    if fields["block_size"] is None:
        fields["block_size"] = fields["condition_length"] + sites - 1
    return GPT(**fields)
