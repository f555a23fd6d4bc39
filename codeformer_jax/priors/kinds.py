"""Registry of the networks that can be priors: how each is sampled and scored."""

import abc
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32

from codeformer_jax.nn import GPT, PixelCNN
from codeformer_jax.ops.checks import AnyArray
from codeformer_jax.sampling import (
    Sampler,
    class_tokens,
    code_tokens,
    sample_gpt,
    sample_pixelcnn,
    start_tokens,
)
from codeformer_jax.system.registry import Registry

Values = Int32[np.ndarray, "_ rows columns"] | Int32[np.ndarray, "_ rows columns c"]
PRIORS: Registry[type["PriorKind"]] = Registry("network of a prior")


@dataclass(frozen=True)
class SamplePlan:
    """Maps to sample; all but their keys and classes is the same for all of them.

    Attributes:
        number: number of maps.
        size: rows and columns of each map.
        seed: map i is sampled with the key fold_in(key(seed), i), whatever the batch.
        sampler: temperature, top-k, top-p.
        classes: one per map, for a prior with classes.
        condition: codes [h, w] or [n], for a prior with a condition of codes.
        known: values [1, h, w] or [1, h, w, c] to keep where `known_mask` is True.
        known_mask: bool [h, w].
    """

    number: int
    size: tuple[int, int]
    seed: int
    sampler: Sampler
    classes: tuple[int, ...] | None = None
    condition: Int32[np.ndarray, "..."] | None = None
    known: Values | None = None
    known_mask: Bool[np.ndarray, "h w"] | None = None


@dataclass(frozen=True)
class PriorKind(abc.ABC):
    """A network over maps of codes or pixels.

    Attributes:
        module: the network.
        pixels: whether values are pixels, [h, w, c], instead of codes, [h, w].
        condition: 'start' (none), 'class' or 'codes'.
        map_size: rows and columns of the maps in training.
        tokens: number of logits per value.
        causal: whether a value sees only those before it.
    """

    module: Any
    pixels = False
    condition = "start"
    causal = True
    map_size = (1, 1)
    tokens = 0

    def has_codes(self, codes: int, own_condition: bool) -> bool:
        """Returns whether the network models a codebook.

        Args:
            codes: size of the codebook.
            own_condition: whether another autoencoder encodes the condition.
        """
        del own_condition
        return codes == self.tokens

    @abc.abstractmethod
    def sample(self, variables: Any, keys: AnyArray, plan: SamplePlan, levels: int) -> jax.Array:
        """Samples as many maps as there are keys.

        Args:
            variables: of the network.
            keys: one per map.
            plan: with the classes of these maps.
            levels: values are 0 to levels - 1; further tokens belong to conditions.

        Returns:
            Values [b, h, w], of pixels [b, h, w, c].
        """

    @abc.abstractmethod
    def code_logits(
        self, variables: Any, codes: Int[Array, "b h w"], condition: Int[Array, "b m"] | None
    ) -> Float[Array, "b h w k"]:
        """Returns the logits of every code, given those before it.

        Args:
            variables: of the network.
            codes: the maps.
            condition: codes of each map's condition; None without one.
        """


@PRIORS.register("taming_gpt")
class GPTKind(PriorKind):
    """Transformer; maps larger than in training are sampled through a window."""

    module: GPT
    condition = property(lambda self: self.module.condition)
    causal = property(lambda self: self.module.n_unmasked <= self.module.condition_length)
    map_size = property(lambda self: tuple(self.module.map_size))
    tokens = property(lambda self: self.module.vocab_size)

    def has_codes(self, codes: int, own_condition: bool) -> bool:
        # Conditions share the vocabulary, and may need more of it than the codes.
        filled = own_condition or self.module.classes == self.tokens
        return codes == self.tokens or (filled and codes < self.tokens)

    def sample(self, variables: Any, keys: AnyArray, plan: SamplePlan, levels: int) -> jax.Array:
        if self.condition == "start":
            tokens = start_tokens(self.module, len(keys))
        elif self.condition == "class":
            tokens = class_tokens(self.module, plan.classes)
        else:
            tokens = code_tokens(self.module, np.stack([plan.condition] * len(keys)))
        sampler = replace(plan.sampler, codebook_size=levels)
        return sample_gpt(
            self.module, variables, keys, tokens, **_options(plan, keys), sampler=sampler
        )

    def code_logits(
        self, variables: Any, codes: Int[Array, "b h w"], condition: Int[Array, "b m"] | None
    ) -> Float[Array, "b h w k"]:
        flat = codes.reshape(codes.shape[0], -1)
        if condition is None:
            condition = np.zeros((codes.shape[0], 1), np.int32)
        logits = self.module.apply(variables, condition, flat, method="code_logits")
        return logits.reshape(*codes.shape, -1)


@PRIORS.register("pixelcnn")
class PixelCNNKind(PriorKind):
    """PixelCNN over codes or pixels, with or without classes; maps may have any sides."""

    module: PixelCNN
    pixels = property(lambda self: self.module.ordinal)
    condition = property(lambda self: "class" if self.module.classes else "start")
    map_size = property(lambda self: (self.module.map_size, self.module.map_size))
    tokens = property(lambda self: self.module.levels)

    def sample(self, variables: Any, keys: AnyArray, plan: SamplePlan, levels: int) -> jax.Array:
        del levels
        labels = None if plan.classes is None else np.asarray(plan.classes, np.int32)
        options = _options(plan, keys)
        if options["known"] is not None and not self.pixels:
            options["known"] = options["known"][..., None]
        values = sample_pixelcnn(
            self.module, variables, keys, labels=labels, **options, sampler=plan.sampler
        )
        return values if self.pixels else values[..., 0]

    def code_logits(
        self, variables: Any, codes: Int[Array, "b h w"], condition: Int[Array, "b m"] | None
    ) -> Float[Array, "b h w k"]:
        del condition
        return self.module.apply(variables, codes[..., None])[..., 0, :]


def _options(plan: SamplePlan, keys: AnyArray) -> dict[str, Any]:
    known = None if plan.known is None else np.repeat(plan.known, len(keys), axis=0)
    return {"size": plan.size, "known": known, "known_mask": plan.known_mask}
